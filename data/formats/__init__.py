"""What annotations look like on disk, read into records."""
