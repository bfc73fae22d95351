"""The address under test, in full for those who ask it and without its secrets for Locust.

Rule: Locust shows `environment.host` and the hosts of users on its page, in its reports and in the names of
files, and takes back from its start form what it showed there. So it only ever has what may be told, and
`known` says what that stands for.
"""

from collections.abc import MutableMapping

from locust.env import Environment

from vllm_locust.core.urls import without_secrets


def conceal(environment: Environment, host: str) -> str:
    """What Locust is to have in the place of `host`."""
    shown = without_secrets(host)
    _known(environment)[shown] = host
    return shown


def conceal_given(environment: Environment) -> None:
    """Let Locust forget the secrets in what the command line and our users' classes say."""
    if environment.host:
        environment.host = conceal(environment, environment.host)
    for user in environment.user_classes:
        if user.host and hasattr(user, "ask_next"):
            user.host = conceal(environment, user.host)


def in_full(environment: Environment, shown: str) -> str:
    """What stands behind a host that was shown; any other one is taken as it is."""
    return _known(environment).get(shown, shown)


def host_of(environment: Environment) -> str | None:
    """The address to test, in full: from --host or the web UI's form, else from a user class."""
    classes = (user.host for user in environment.user_classes)
    host = environment.host or next(filter(None, classes), None)
    return host and in_full(environment, host)


def _known(environment: Environment) -> MutableMapping[str, str]:
    known: MutableMapping[str, str] = vars(environment).setdefault("vllm_hosts", {})
    return known
