"""The one error that people see: their input is bad, and this line says what, where and the cure."""


class InputError(Exception):
    """Bad input. The message is one line: what is wrong, where (file, frame, label), and the cure.

    The mains print it without a traceback and exit with status 1 (`launch.cli`).
    """
