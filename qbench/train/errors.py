"""The two ways in which a request can be refused."""


class ConfigError(Exception):
    """The user asked for something that cannot be: one sentence, exit code 2."""


class Rejected(BaseException):
    """Carries its cause past Hydra's callbacks, which turn every Exception into a warning."""


class Incompatible(ConfigError):
    """A combination of choices that makes no sense: skipped in a sweep, refused alone."""
