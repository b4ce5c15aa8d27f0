"""From a source of pictures to what is written down about them."""
