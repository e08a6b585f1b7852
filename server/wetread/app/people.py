"""Who is let in: apps by the authorization server, people by password or by their identity provider."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from wetread.access.clients.assertions import ClientKeys
from wetread.access.oauth.core import Authority, Lifetimes
from wetread.access.people.attempts import LockOut
from wetread.access.people.passwords import Passwords
from wetread.access.people.sessions import Lifetime
from wetread.access.people.totp import Seeds
from wetread.access.providers.documents import ProviderDocuments
from wetread.access.providers.identity_providers import IdentityProvider, Provider
from wetread.app.keys import signing_keys, site_key, tokens
from wetread.console.sign_in import People
from wetread.settings import Settings
from wetread.store.database import Database
from wetread.wire.fetch import Fetch


def authority(settings: Settings, database: Database, fetch: Fetch) -> Authority:
    """Who lets apps in, and gives them tokens."""
    access = settings.access
    return Authority(
        database,
        tokens(settings),
        signing_keys(settings),
        ClientKeys(fetch),
        settings.base_url,
        settings.fhir_base,
        Lifetimes(
            timedelta(minutes=access.token_minutes),
            timedelta(days=access.offline_days),
            timedelta(hours=access.session_hours),
        ),
    )


def people(settings: Settings) -> People:
    access = settings.access
    return People(
        Passwords(access.password_length),
        Seeds(site_key(settings.data_dir)),
        LockOut(access.lockout_after, timedelta(seconds=access.lockout_s), timedelta(seconds=access.lockout_most_s)),
        Lifetime(timedelta(hours=access.session_hours), timedelta(minutes=access.idle_minutes)),
        frozenset(access.totp_roles),
    )


def identity_providers(settings: Settings, fetch: Fetch) -> Mapping[str, IdentityProvider]:
    found: dict[str, IdentityProvider] = {}
    for given in settings.access.providers:
        provider = Provider(
            given.name,
            given.display_name,
            given.issuer,
            given.client_id,
            given.client_secret.get_secret_value(),
            given.scopes,
            given.groups_claim,
            given.roles,
            given.without_group,
            given.fhir_user_claim,
            given.userinfo,
            given.prompt,
            given.logout_ends_offline,
        )
        callback = f"{settings.base_url}/login/provider/{given.name}/callback"
        found[given.name] = IdentityProvider(provider, callback, fetch, ProviderDocuments(given.issuer, fetch))
    return found
