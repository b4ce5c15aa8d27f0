"""What can go wrong for a user, and the exit code each kind ends with."""


class UserError(Exception):
    """A fault the user can mend; the scripts print it as one line and exit with ``exit_code``."""

    exit_code = 1


class UsageError(UserError, ValueError):
    """Flags that contradict each other or name something that does not exist."""

    exit_code = 2


class InputError(UserError, ValueError):
    """A file that is missing, broken or of the wrong kind: *where: what came (what was wanted); what to do*."""

    exit_code = 3


class CfgError(InputError):
    """A Darknet cfg that cannot be understood or built."""


class WeightsError(InputError):
    """A weights file or checkpoint that does not fit its network."""


class DatasetError(InputError):
    """Annotations, labels or images that cannot be used."""


class ImageError(InputError):
    """Bytes that do not decode to an image."""


class EnvironmentFault(UserError, OSError):
    """Disk, device, codec or stream refused to work."""

    exit_code = 4


class Diverged(UserError, ArithmeticError):
    """Training produced a value that is not finite."""

    exit_code = 5
