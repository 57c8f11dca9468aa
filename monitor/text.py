"""Text from outside, as it may go to a terminal, a log or an error line."""


def printable(text: str) -> str:
    r"""The text with an escape for each character that is not printable.

    A control character could move the cursor, set the terminal's title, or begin a line that looks
    like one of ours; others turn the direction of what follows.

    >>> print(printable("bed-7\n\x1b[2J\u202e"))
    bed-7\n\x1b[2J\u202e
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
