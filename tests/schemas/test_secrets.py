"""Secrets in URLs: refused in every form, and masked in text."""

import pytest

from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.secrets import MASK, url_fault, values_without_secrets, without_secrets

CANARY = "CanarySecret9876"
SECRET = [
    f"http://host/x.pcap?X-Amz-Signature={CANARY}",
    f"https://host/x.pcap?id=1&password={CANARY}",
    f"https://host/x.pcap?pass%77ord={CANARY}",
    f"https://host/x.pcap?{CANARY}",
    f"https://host/x.pcap#access_token={CANARY}",
    f"https://host/x.pcap;auth={CANARY}",
    f"https://user:{CANARY}@host/x.pcap",
    f"https://{CANARY}@host/x.pcap",
    f"https://user%3A{CANARY}%40host/x.pcap",
    f"s3://AKIA:{CANARY}@bucket/x.pcap",
    f"s3://bucket/x.pcap?secret_key={CANARY}&access_key=AKIA",
    f"abfs://user:{CANARY}@account/x.pcap",
    f"simplecache::https://user:{CANARY}@host/x.pcap",
    f"ftp://user:{CANARY}@host/x.pcap",
]
HARMLESS = [
    "https://host/x.pcap?id=5&versionId=3",
    "https://host/data/x.pcap",
    "abfs://container@account/x.pcap",
    "s3://bucket/date=2020/x?.pcap",
    "gs://bucket/[ab]*.pcap",
    "simplecache::https://host/x.pcap",
    "/data/odd?name=1",
]


@pytest.mark.parametrize("url", SECRET)
def test_urls_with_secrets_have_a_fault_that_does_not_repeat_them(url):
    fault = url_fault(url)
    assert fault is not None
    assert "must not carry credentials" in fault
    assert CANARY not in fault


@pytest.mark.parametrize("url", HARMLESS)
def test_harmless_urls_pass(url):
    assert url_fault(url) is None
    assert without_secrets(f"{url}: cannot be read") == f"{url}: cannot be read"


@pytest.mark.parametrize(
    "text",
    [
        f"cannot open https://user:{CANARY}@host/x: 403",
        f"GET https://host/x?sig={CANARY}&id=2 failed",
        f"password={CANARY}",
        f"{{'token': '{CANARY}'}}",
        f"Authorization: Bearer {CANARY}",
        f"--s3_secret_access_key={CANARY}",
        f"X-Amz-Security-Token: {CANARY}",
    ],
)
def test_text_is_masked_in_messages_and_documents(text):
    assert MASK in without_secrets(text)
    assert CANARY not in str(FlowloomError(text))
    assert CANARY not in str(values_without_secrets({"a": [text, 1, None]}))


@pytest.mark.parametrize("text", ["epoch 1 of 2: validation AUC: app 0.912", "unknown key 'author': x", "tokens: 128"])
def test_other_text_is_kept(text):
    assert without_secrets(text) == text
