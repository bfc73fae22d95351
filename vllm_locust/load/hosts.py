"""The address under test, in full for those who ask it and without its secrets for Locust.

Rule: Locust shows `environment.host` and the hosts of users on its page, in its reports and in the names of
files, and takes back from its start form what it showed there. So it only ever has what may be told, and
`known` says what that stands for.
"""

import logging
from collections.abc import MutableMapping

from locust.env import Environment

from vllm_locust.core.urls import without_secrets
from vllm_locust.load.own_tasks import Asker

logger = logging.getLogger(__name__)


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
        if user.host and issubclass(user, Asker):
            user.host = conceal(environment, user.host)


def warn_of_others(environment: Environment) -> None:
    """Users of other classes cannot do with what Locust gives them when something is hidden in it."""
    if not environment.host or in_full(environment, environment.host) == environment.host:
        return
    for user in environment.user_classes:
        if not issubclass(user, Asker):
            logger.warning(
                "Locust gives %s the address %s, without what was hidden: let its on_start set "
                "self.client.base_url to the right one and, for a user and password, self.client.auth.",
                user.__name__,
                environment.host,
            )


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
