"""Names are the lowest that are free, of streams and of cameras that are nobody's."""

from ingest.door import LocalStreamNames


def test_a_name_that_is_taken_gets_the_lowest_free_number() -> None:
    names = LocalStreamNames()
    assert [names.claim("Alice") for _ in range(3)] == ["Alice", "Alice~2", "Alice~3"]
    names.release("Alice~2")
    assert names.claim("Alice") == "Alice~2"
    names.release("Alice")
    assert names.claim("Alice") == "Alice"
    assert names.claim("Bob") == "Bob"


def test_a_camera_that_is_nobodys_gets_the_lowest_free_number_of_its_gateway() -> None:
    names = LocalStreamNames()
    assert [names.claim_user("tcp") for _ in range(3)] == ["tcp-1", "tcp-2", "tcp-3"]
    assert names.claim_user("pull") == "pull-1"
    names.release_user("tcp-2")
    assert names.claim_user("tcp") == "tcp-2"
    assert names.claim_user("tcp") == "tcp-4"
    names.release_user("Alice")  # harmless


def test_a_user_and_its_streams_are_claimed_apart() -> None:
    names = LocalStreamNames()
    user = names.claim_user("tcp")
    assert names.claim(user) == user
    names.release(user)
    assert names.claim_user("tcp") == "tcp-2", "the camera is still there"
