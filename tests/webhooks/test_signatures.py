"""Signatures of Standard Webhooks, and the file of secrets."""

import base64

import pytest
from webhook_receivers import KEYS, SECRETS, secret_file

from aiorelay.errors import StartupError
from aiorelay.webhooks.signatures import Secrets, sign


def test_the_published_vector_is_reproduced():
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_secret_signs(tmp_path):
    secrets = Secrets(secret_file(tmp_path, *SECRETS))
    assert secrets.signature("a", 1, b"body") == " ".join(sign(key, "a", 1, b"body") for key in KEYS)


def test_a_changed_file_is_read_again(tmp_path):
    secrets = Secrets(secret_file(tmp_path, SECRETS[0]))
    secret_file(tmp_path, *SECRETS)
    assert len(secrets.signature("a", 1, b"body").split()) == 2


def test_a_file_that_becomes_wrong_leaves_the_secrets_as_they_were(tmp_path, caplog):
    secrets = Secrets(secret_file(tmp_path, SECRETS[0]))
    before = secrets.signature("a", 1, b"body")
    secret_file(tmp_path, "wrong")
    assert [secrets.signature("a", 1, b"body") for _ in range(2)] == [before, before]
    assert caplog.text.count("stay as they were") == 1


@pytest.mark.parametrize("size", [24, 25, 64])
def test_a_secret_has_24_to_64_bytes(tmp_path, size):
    text = base64.b64encode(bytes(size)).decode()
    for each in (text, text.rstrip("=")):
        Secrets(secret_file(tmp_path, f"whsec_{each}"))


def test_comments_and_empty_lines_are_skipped(tmp_path):
    Secrets(secret_file(tmp_path, "# since January", "", SECRETS[0]))


WRONG = {
    "no secret": ["# nothing"],
    "three secrets": [SECRETS[0], SECRETS[1], SECRETS[0]],
    "no prefix": [SECRETS[0].removeprefix("whsec_")],
    "23 bytes": [f"whsec_{base64.b64encode(bytes(23)).decode()}"],
    "65 bytes": [f"whsec_{base64.b64encode(bytes(65)).decode()}"],
    "not base64": ["whsec_" + "ä" * 40],
    "another alphabet": ["whsec_" + "_-" * 20],
    "not UTF-8": ["whsec_\udcff"],
}


@pytest.mark.parametrize("lines", WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused_without_showing_it(tmp_path, lines):
    path = tmp_path / "webhook-secret"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(StartupError, match="webhook-secret-file: ") as refused:
        Secrets(path)
    assert not [line for line in lines if len(line) > 20 and line in str(refused.value)]


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(StartupError, match="cannot be read: No such file"):
        Secrets(tmp_path / "missing")
