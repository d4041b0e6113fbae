"""Limits of compressed captures: how many bytes they may become."""

from typing import Self

import pydantic

from flowloom.schemas.errors import FlowloomError


class CaptureLimits(pydantic.BaseModel):
    """Limits of the uncompressed bytes of a compressed capture; reading stops there, and the capture has a reject.

    There are none by default: memory is bounded anyway, and captures of idle links compress 350-fold.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    uncompressed_bytes: pydantic.ByteSize | None = pydantic.Field(None, ge=1, description="for example 100GiB")
    ratio: float | None = pydantic.Field(
        None, ge=1, allow_inf_nan=False, description="uncompressed bytes for each stored byte"
    )

    @classmethod
    def of(cls, uncompressed_bytes: str | None, ratio: float | None) -> Self:
        """Returns limits from the options of a command.

        Raises:
          FlowloomError: if the number of bytes cannot be read.
        """
        try:
            return cls.model_validate({"uncompressed_bytes": uncompressed_bytes, "ratio": ratio})
        except pydantic.ValidationError as error:
            name = error.errors()[0]["loc"][0]
            value = uncompressed_bytes if name == "uncompressed_bytes" else ratio
            raise FlowloomError(
                f"{name} must be {'a number of bytes such as 10GiB' if value is uncompressed_bytes else 'at least 1'}, "
                f"got {value}"
            ) from None

    def most(self, stored: int) -> int | None:
        """Returns the number of uncompressed bytes that a capture of `stored` bytes may have; None for any."""
        allowed = [None if self.ratio is None else int(self.ratio * stored), self.uncompressed_bytes]
        return min((int(each) for each in allowed if each is not None), default=None)


NO_LIMITS = CaptureLimits()
