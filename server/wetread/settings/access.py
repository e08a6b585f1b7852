"""How people sign in."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, field_validator, model_validator

from wetread.access import rights
from wetread.errors import Misconfigured
from wetread.settings.providers import Provider
from wetread.settings.section import Section

_USUAL_LENGTH = 12
_MANY_GUESSES = 20
_SHORT_PAUSE_S = 60


class Access(Section):
    session_hours: float = Field(default=12, gt=0, le=168)
    idle_minutes: float = Field(default=30, gt=0)
    password_length: int = Field(default=12, ge=8, le=64)
    """NIST SP 800-63B 5.1.1.1 has 8 as the least."""
    lockout_after: int = Field(default=5, ge=1, le=100)
    lockout_s: float = Field(default=30, gt=0)
    lockout_most_s: float = Field(default=900, gt=0)
    totp_roles: tuple[str, ...] = ("administrator",)
    """Roles that sign in with a code of an authenticator app beside the password."""
    token_minutes: float = Field(default=60, ge=1, le=1440)
    """How long an access token lives that a person gave to an app."""
    offline_days: float = Field(default=90, gt=0, le=366)
    """How long an app may go on by itself, with offline_access."""
    offline_unseen_days: float = Field(default=30, gt=0, le=366)
    """The same where the person comes by an identity provider and has not signed in here since."""
    providers: tuple[Provider, ...] = ()

    def weaknesses(self) -> Iterator[str]:
        """What `check-config` warns of."""
        if "administrator" not in self.totp_roles:
            yield "access.totp_roles does not name administrator: a guessed password opens everything"
        if self.password_length < _USUAL_LENGTH:
            yield f"access.password_length is below {_USUAL_LENGTH}"
        if self.lockout_after > _MANY_GUESSES or self.lockout_most_s < _SHORT_PAUSE_S:
            yield "access.lockout_after and lockout_most_s let passwords be guessed fast"

    @field_validator("totp_roles")
    @classmethod
    def _known_roles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            rights.checked(value)
        except Misconfigured as error:
            raise ValueError(error.message) from error
        return value

    @model_validator(mode="after")
    def _unique(self) -> Access:
        for key in ("name", "issuer"):
            values = [getattr(provider, key) for provider in self.providers]
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(f"two identity providers have the {key} {value!r}")
        return self
