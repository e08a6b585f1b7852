"""Identity providers through which people sign in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from wetread.access import rights
from wetread.errors import Misconfigured
from wetread.settings.section import Section, host_of, is_loopback

_Words = tuple[Annotated[str, Field(pattern=r"^[^\s]+$")], ...]


class Provider(Section):
    """An OpenID Connect provider, e.g. Keycloak, Entra ID or AD FS."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    display_name: str = Field(min_length=1, max_length=80)
    issuer: str
    client_id: str = Field(min_length=1)
    client_secret: SecretStr = SecretStr("")
    client_secret_file: Path | None = None
    scopes: _Words = ("profile",)
    groups_claim: str = Field(default="groups", min_length=1)
    roles: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Roles by group."""
    without_group: tuple[str, ...] = ()
    fhir_user_claim: str = ""
    userinfo: bool = False
    prompt: Literal["", "login", "select_account", "consent"] = ""
    logout_ends_offline: bool = False

    @field_validator("issuer")
    @classmethod
    def _is_issuer(cls, value: str) -> str:
        """OpenID Connect Discovery 1.0, 3: an https URL without query and fragment."""
        scheme = value.partition("://")[0]
        if not host_of(value) or scheme not in ("https", "http") or any(char in value for char in "?#@ "):
            raise ValueError("expected the issuer's address, e.g. https://login.example.org/realms/hospital")
        if scheme == "http" and not is_loopback(value):
            raise ValueError("beyond loopback an identity provider is reached by https only")
        return value

    @field_validator("roles")
    @classmethod
    def _known_roles_of_groups(cls, value: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        for roles in value.values():
            _require_roles(roles)
        return value

    @field_validator("without_group")
    @classmethod
    def _known_roles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _require_roles(value)


def _require_roles(roles: tuple[str, ...]) -> tuple[str, ...]:
    try:
        rights.checked(roles)
    except Misconfigured as error:
        raise ValueError(error.message) from error
    return roles
