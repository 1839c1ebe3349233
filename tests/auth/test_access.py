import pytest

from auth.access import Action, Viewer, may

NOBODY = None
OWNER = Viewer("Alice")
NAMED = Viewer("Bob", watchable=frozenset({"Alice"}))
OTHER = Viewer("Carol", watchable=frozenset({"Dave"}))
ADMIN = Viewer("root", admin=True)
TOKEN = Viewer("Alice", only_stream="Alice~2")
ADMINS_TOKEN = Viewer("root", admin=True, only_stream="Alice~2")
OPEN = Viewer.anybody("192.0.2.1")
OPEN_HERE = Viewer.anybody("127.0.0.1")

EVERYBODY = {
    "nobody": NOBODY, "owner": OWNER, "named": NAMED, "other": OTHER, "admin": ADMIN, "token": TOKEN,
    "admin's token": ADMINS_TOKEN, "open": OPEN, "open, here": OPEN_HERE,
}  # fmt: skip

#: Who may do it to what Alice owns.
LAW = {
    Action.SEE: {"owner", "named", "admin", "open", "open, here"},
    Action.SET_RATE: {"owner", "admin", "open, here"},
    Action.NAME_VIEWERS: {"owner", "admin", "open, here"},
    Action.CHANGE_ACCOUNT: {"owner", "admin", "open, here"},
    Action.DISCONNECT: {"admin", "open, here"},
    Action.ADMINISTER: {"admin", "open, here"},
}


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("who", EVERYBODY)
def test_a_user_owns_what_they_send(action: Action, who: str) -> None:
    assert may(EVERYBODY[who], action, "Alice") == (who in LAW[action])


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("viewer", [TOKEN, ADMINS_TOKEN])
def test_a_token_for_one_stream_lets_see_that_one_and_nothing_else(action: Action, viewer: Viewer) -> None:
    assert may(viewer, action, "Alice", stream="Alice~2") == (action is Action.SEE)
    assert not may(viewer, action, "Alice", stream="Alice")


def test_a_token_for_one_stream_gives_no_more_than_its_user_may() -> None:
    assert not may(Viewer("Carol", only_stream="Alice"), Action.SEE, "Alice", stream="Alice")


@pytest.mark.parametrize(
    ("address", "here"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("::ffff:127.0.0.1", True),
     ("192.0.2.1", False), ("::ffff:192.0.2.1", False), ("", False), ("localhost", False)],
)  # fmt: skip
def test_where_nobody_is_asked_for_a_name_only_this_machine_may_change_things(address: str, here: bool) -> None:
    assert may(Viewer.anybody(address), Action.ADMINISTER, "Alice") is here
