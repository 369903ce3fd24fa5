"""What a stranger's job file packs or prints of this machine's secrets: nothing outside its folder, no key file, no password of a URL."""

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_train.errors import CloudTrainError
from cloud_train.image.context import check, survey
from cloud_train.image.errors import ImageError
from cloud_train.image.layers import code_members, make_layer
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.packaging import recipe_of
from cloud_train.orchestrator.planning import make_plan
from cloud_train.spec.problems import FieldError
from tests.cli.command import CommandLine, command_line_of

BASE64 = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7"
SCRIPT = "name: job\nmodel: {kind: script, command: 'true'%s}\n"


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Path]:
    """A job file in a folder of its own, with a folder of private keys beside that folder."""
    folder, private = tmp_path / "cloned", tmp_path / "home" / ".ssh"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "train.py").write_text("print()\n")
    private.mkdir(parents=True)
    for name in ("deploy", "Dockerfile", "requirements.txt"):
        (private / name).write_text("FROM scratch\n")

    def write(model: str = "", image: str = "") -> Path:
        (folder / "job.yaml").write_text(SCRIPT % model + (f"image: {{{image}}}\n" if image else ""))
        return folder / "job.yaml"

    return write


OUTSIDE = {
    "a folder": (", directory: ../home/.ssh", ""),
    "the folder above": (", directory: ..", ""),
    "a folder by its whole path": (", directory: {root}/home/.ssh", ""),
    "a link to a folder": (", directory: keys", ""),
    "a folder below a link": (", directory: up/.ssh", ""),
    "a Dockerfile": ("", "dockerfile: ../home/.ssh/Dockerfile"),
    "a link to a Dockerfile": ("", "dockerfile: code/Dockerfile"),
    "a Dockerfile in the home folder": ("", "dockerfile: ~/.ssh/Dockerfile"),
    "requirements": ("", "requirements: ../home/.ssh/requirements.txt"),
}


def _with_links(folder: Path) -> None:
    (folder / "keys").symlink_to("../home/.ssh")
    (folder / "up").symlink_to("../home")
    (folder / "code" / "Dockerfile").symlink_to("../../home/.ssh/Dockerfile")


@pytest.mark.parametrize("outside", OUTSIDE)
def test_files_outside_the_jobs_folder_are_packed_only_where_the_command_line_says_so(
    job: Callable[..., Path], outside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    model, image = (text.replace("{root}", str(tmp_path)) for text in OUTSIDE[outside])
    file = job(model, image)
    _with_links(file.parent)
    home = Home(tmp_path / "ledger")
    for dry_run in (True, False):
        with pytest.raises(FieldError, match="is outside the job's folder") as caught:
            make_plan(home, file, provider="docker", dry_run=dry_run)
    assert (caught.value.hint or "").startswith("move it into that folder")
    said = shlex.split((caught.value.hint or "").rpartition(": ")[2])[1]
    recipe_of(make_plan(home, file, [said], provider="docker"))
    local = make_plan(home, file, provider="local")  # nothing is packed there
    with pytest.raises(FieldError, match="is outside the job's folder"):
        recipe_of(local)


def test_a_folder_inside_the_jobs_folder_is_packed_through_links_too(job: Callable[..., Path], tmp_path: Path) -> None:
    file = job(", directory: inner")
    (file.parent / "inner").symlink_to("code")
    (tmp_path / "link").symlink_to(file.parent)
    for place in (file, tmp_path / "link" / file.name):
        assert recipe_of(make_plan(Home(tmp_path / "ledger"), place, provider="docker")).folder == file.parent / "code"


def test_a_file_that_became_a_link_or_a_pipe_after_it_was_looked_at_is_not_followed(tmp_path: Path) -> None:
    code, private = tmp_path / "code", tmp_path / "private"
    code.mkdir()
    for name in ("link", "pipe"):
        (code / name).write_text("12345678")
    private.write_text("PASSWORD")
    os.utime(private, (5, 5))
    for name in ("link", "pipe"):
        os.utime(code / name, (5, 5))
    members = code_members(survey(code))
    (code / "link").unlink()
    (code / "link").symlink_to(private)
    with pytest.raises(ImageError):
        make_layer(members, "the code")
    (code / "link").unlink()
    (code / "link").write_text("12345678")
    os.utime(code / "link", (5, 5))
    (code / "pipe").unlink()
    os.mkfifo(code / "pipe")
    with pytest.raises(ImageError):
        make_layer(members, "the code")


AZURITE = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
KEYS = {
    "a PEM key": f"-----BEGIN PRIVATE KEY-----\n{BASE64}\n-----END PRIVATE KEY-----\n",
    "an OpenSSH key": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ\n",
    "an encrypted RSA key": "-----BEGIN RSA PRIVATE KEY-----\r\nProc-Type: 4,ENCRYPTED\r\nDEK-Info: AES-128-CBC,00\r\n",
    "a PGP key": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQOYBGDxAbcBCADL0123456789\n",
    "a key in a program": f'KEY = (\n    "-----BEGIN EC PRIVATE KEY-----\\n"\n    "{BASE64}\\n"\n)\n',
    "a PuTTY key": "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n",
    "an age key": "# created: 2026\nAGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQ\n",
    "AWS credentials": f"[default]\naws_access_key_id = AKIAIOSFODNN7ABCDEFG\naws_secret_access_key = {'aB3/' * 10}\n",
    "AWS credentials in a shell": f"export AWS_SECRET_ACCESS_KEY='{'aB3+' * 10}'\n",
    "temporary AWS credentials": json.dumps({"Credentials": {"SecretAccessKey": "aB3x" * 10}}, indent=4),
    "s3cmd's settings": f"[default]\naccess_key = AKIAIOSFODNN7ABCDEFG\nsecret_key = {'aB3/' * 10}\n",
    "a vault's token": f"hvs.{'aB3_' * 20}",
    "Google's default credentials": json.dumps({"client_id": "a", "refresh_token": f"1//0{'aB-_' * 20}", "type": "authorized_user"}),
    "Azure's cached tokens": json.dumps({"RefreshToken": {"a": {"credential_type": "RefreshToken", "secret": "0.AX" * 20}}}),
    "a kubeconfig with a token": f"current-context: a\nusers:\n- name: a\n  user:\n    token: {'aB3.' * 10}\n",
    "a kubeconfig's user": f"users:\n- user:\n    token: {'aB3.' * 10}\n",
    "a service account in a text in JSON": json.dumps({"key": json.dumps({"private_key": f"-----BEGIN PRIVATE KEY-----\n{BASE64}\n"})}),
    "a login in a text in JSON": json.dumps({"key": json.dumps({"refresh_token": "aB3-" * 10})}),
    "an agent's key": "(21:protected-private-key(3:rsa(1:n257:",
    "an agent's key in its newer form": "Created: 20260101T000000\nKey: (protected-private-key (ecc (curve Ed25519)(q #40",
    "a PEM key in bytes": f'KEY = (\n    b"-----BEGIN EC PRIVATE KEY-----\\n"\n    b"{BASE64}\\n"\n)\n',
    "a PEM key in a mail": f"> -----BEGIN PRIVATE KEY-----\n> {BASE64}\n",
    "a PEM key in a comment": f"# -----BEGIN PRIVATE KEY-----\n# {BASE64}\n",
    "AWS credentials in JSON": json.dumps({"SecretAccessKey": "x", "aws_secret_access_key": "aB3x" * 10}),
    "a Google service account": json.dumps({"type": "service_account", "private_key": f"-----BEGIN PRIVATE KEY-----\n{BASE64}\n"}),
    "an Azure storage key": f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={'Ab' * 43}==;\n",
    "a netrc": "machine api.wandb.ai\n  login user\n  password 0123456789abcdef\n",
    "a netrc with an example before": "machine example.com login me password secret\nmachine api.wandb.ai login me password 0123456789\n",
    "a host that only begins like an example": "machine example.com.attacker.net login me password secret\n",
    "an Azure storage key behind Azurite's": f"AccountKey={AZURITE};\nAccountKey={'Ab' * 43}==;\n",
    "a Docker login": json.dumps({"auths": {"registry.example.com": {"auth": "dXNlcjpwYXNzd29yZA=="}}}, indent=4),
    "a kubeconfig": f"users:\n- name: a\n  user:\n    client-key-data: {BASE64}\n",
    "a GitHub token": f"token: ghp_{'a1B2' * 9}\n",
    "a Hugging Face token": f"hf_{'aB' * 17}",
}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_or_login_is_refused_by_its_content_whatever_its_name(tmp_path: Path, key: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "notes.txt").write_text(f"some text before\n{KEYS[key]}")
    with pytest.raises(ImageError, match=r"look like secrets.*sub/notes\.txt \([^)]*, contains a") as caught:
        check(survey(tmp_path), lambda _: None)
    assert "!" in (caught.value.hint or "")
    (tmp_path / ".dockerignore").write_text("sub/notes.txt\n")
    check(survey(tmp_path), lambda _: None)
    (tmp_path / ".dockerignore").write_text("!sub/notes.txt\n")
    check(survey(tmp_path), lambda _: None)


def other_forms() -> dict[str, bytes]:
    """Real keys in forms other than PEM; made by the library that users make them with."""
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import pkcs12

    keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey]
    keys = {"RSA": rsa.generate_private_key(65537, 2048), "EC": ec.generate_private_key(ec.SECP256R1())}
    keys["P-384"] = ec.generate_private_key(ec.SECP384R1())
    pkcs8, plain = forms.PrivateFormat.PKCS8, forms.NoEncryption()
    found: dict[str, bytes] = {}
    for name, key in keys.items():
        der = key.private_bytes(forms.Encoding.DER, pkcs8, plain)
        pem = key.private_bytes(forms.Encoding.PEM, pkcs8, plain)
        found |= {
            f"{name}: PKCS #8": der,
            f"{name}: traditional": key.private_bytes(forms.Encoding.DER, forms.PrivateFormat.TraditionalOpenSSL, plain),
            f"{name}: PKCS #8, encrypted": key.private_bytes(forms.Encoding.DER, pkcs8, forms.BestAvailableEncryption(b"x")),
            f"{name}: PKCS #12": pkcs12.serialize_key_and_certificates(b"a", key, None, None, forms.BestAvailableEncryption(b"x")),
            f"{name}: PKCS #8 in base64": b"key: " + base64.b64encode(der),
            f"{name}: PEM in base64": b"data:\n  tls.key: " + base64.b64encode(pem),
            f"{name}: traditional in base64": base64.b64encode(
                key.private_bytes(forms.Encoding.DER, forms.PrivateFormat.TraditionalOpenSSL, plain)
            ),
            f"{name}: PKCS #8 in lines of base64": b"key: |\n  " + base64.encodebytes(der).replace(b"\n", b"\n  "),
            f"{name}: PEM in base64 behind a line": base64.b64encode(b"# my key\n" + pem),
            f"{name}: PEM in lines of base64 behind a line": base64.encodebytes(b"# my key\n" + pem),
            f"{name}: PEM in base64 in base64": base64.b64encode(b"tls.key: " + base64.b64encode(pem)),
            f"{name}: PEM in UTF-16, the other way around": pem.decode().encode("utf-16-be"),
            f"{name}: in hexadecimal": b"key = " + der.hex().encode(),
            f"{name}: in hexadecimal with colons": der.hex(":", 1).encode(),
            f"{name}: in C": b"{" + b", ".join(f"0x{byte:02x}".encode() for byte in der) + b"}",
            f"{name}: in a text of bytes": b'KEY = b"' + b"".join(f"\\x{byte:02x}".encode() for byte in der) + b'"',
            f"{name}: PKCS #12 in base64": base64.b64encode(
                pkcs12.serialize_key_and_certificates(b"a", key, None, None, forms.BestAvailableEncryption(b"x"))
            ),
            f"{name}: PEM in UTF-16 with a mark": pem.decode().encode("utf-16"),
            f"{name}: PEM in UTF-16 without one": pem.decode().encode("utf-16-le"),
            f"{name}: PEM behind 900 kB": b"# comment\n" * 90_000 + pem,
        }
    small = ed25519.Ed25519PrivateKey.generate()
    openssh = small.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.OpenSSH, plain)
    found["Ed25519: PKCS #8"] = small.private_bytes(forms.Encoding.DER, pkcs8, plain)
    found["Ed25519: PKCS #8 in base64"] = base64.b64encode(found["Ed25519: PKCS #8"])
    found["PKCS #12 of an indefinite length"] = bytes.fromhex("3080020103308006092a864886f70d010701a080248004820400")
    found["OpenPGP's secret keys"] = bytes.fromhex("9503c6045f000000010800") + bytes(900)
    found["OpenPGP's secret keys in the newer form"] = bytes.fromhex("c55804690000001609 2b06010401da470f0101") + bytes(80)
    found["Ed25519: OpenSSH without its armor"] = b"".join(openssh.splitlines()[1:-1])
    found["a Java key store"] = bytes.fromhex("feedfeed00000002000000010000000100036b6579")
    return found


@pytest.mark.parametrize("form", other_forms())
def test_a_key_is_found_in_every_form(tmp_path: Path, form: str) -> None:
    (tmp_path / "notes.txt").write_bytes(other_forms()[form])
    with pytest.raises(ImageError, match=r"look like secrets.*notes\.txt \([^)]*, contains a (private key|key store)"):
        check(survey(tmp_path), lambda _: None)


def test_a_public_key_is_packed_in_every_form(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())):
        for encoding in (forms.Encoding.DER, forms.Encoding.PEM):
            data = key.public_key().public_bytes(encoding, forms.PublicFormat.SubjectPublicKeyInfo)
            for content in (data, base64.b64encode(data)):
                (tmp_path / "notes.txt").write_bytes(content)
                check(survey(tmp_path), lambda _: None)


NO_KEYS = {
    "sums of files": "".join(
        f"{hashlib.sha512(bytes([n])).hexdigest()}  a{n}\n{hashlib.sha256(bytes([n])).hexdigest()}\n" for n in range(200)
    ),
    "sums of packages": "".join(f'"sha512-{base64.b64encode(hashlib.sha512(bytes([n])).digest()).decode()}",\n' for n in range(200)),
    "numbers": "".join(f"{n % 97},{n % 89},{n % 13}\n" for n in range(5000)),
    "a picture in a notebook": json.dumps({"image/png": base64.b64encode(hashlib.shake_256(b"x").digest(50_000)).decode()}),
    "a place for a token": "current-context: a\nusers:\n- user:\n    token: <your token>\n    token: $TOKEN\n",
    "a program that refreshes": 'data = {"refresh_token": self.refresh_token}\nSECRET_KEY = os.environ["SECRET_KEY"]\n',
    "a program that speaks of agents": "# the agent's (private-key) files, and protected-private-key\n",
    "a public key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB user@host\n-----BEGIN PUBLIC KEY-----\nMIIB\n",
    "a certificate": "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBaMQswCQYDVQQGEwJJ\n",
    "a program that looks for keys": 'if b"-----BEGIN PRIVATE KEY-----" in data:\n    raise ValueError\n',
    "AWS's own example": "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n",
    "Azurite's key, which is published": f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURITE};\n",
    "an example of a netrc": "write: machine example.com login me password secret\nmachine api.example.org\nlogin me\npassword x\n",
    "a variable": 'secret = os.environ["AWS_SECRET_ACCESS_KEY"]\naws_secret_access_key=secret\n',
    "text": "machine learning: the login of a password; hf_model = ghp_x\n",
    "a Docker configuration": json.dumps({"auths": {}, "credsStore": "desktop"}),
}


@pytest.mark.parametrize("text", NO_KEYS)
def test_what_only_speaks_of_keys_is_packed(tmp_path: Path, text: str) -> None:
    (tmp_path / "notes.txt").write_text(NO_KEYS[text])
    check(survey(tmp_path), lambda _: None)


def test_an_ignoring_file_that_is_a_pipe_or_endless_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".dockerignore")
    with pytest.raises(ImageError, match=r"\.dockerignore is larger than .*, or not a regular file"):
        survey(tmp_path)
    (tmp_path / ".dockerignore").unlink()
    (tmp_path / ".dockerignore").symlink_to("/dev/zero")
    with pytest.raises(ImageError, match=r"\.dockerignore is a link out of"):
        survey(tmp_path)
    (tmp_path / ".dockerignore").unlink()
    (tmp_path / ".dockerignore").write_text("a\n" * 200_000)
    with pytest.raises(ImageError, match=r"\.dockerignore is larger than .*, or not a regular file"):
        survey(tmp_path)


@pytest.mark.parametrize("way", ["a path", "a whole path", "a link to a link", "a folder", "to nothing"])
def test_an_ignoring_file_that_is_a_link_out_of_the_folder_is_not_read(tmp_path: Path, way: str) -> None:
    code, private = tmp_path / "code", tmp_path / "netrcx"
    (code / "sub").mkdir(parents=True)
    private.write_text(f"machine h login me password [{CANARY}\n")
    (code / "sub" / "link").symlink_to(private)
    (code / "up").symlink_to("..")
    target = {
        "a path": "../netrcx",
        "a whole path": str(private),
        "a link to a link": "sub/link",
        "a folder": "up/netrcx",
        "to nothing": "../x",
    }
    (code / ".dockerignore").symlink_to(target[way])
    with pytest.raises(ImageError, match=r"\.dockerignore is a link out of") as caught:
        survey(code)
    assert CANARY not in f"{caught.value.message} {caught.value.hint} {caught.value.__cause__}"


def test_an_ignoring_file_may_be_a_link_to_another_file_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("notes.txt\n.gitignore\n")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "train.py").touch()
    (tmp_path / ".dockerignore").symlink_to(".gitignore")
    assert [entry.path for entry in survey(tmp_path).entries] == ["train.py"]


CANARY = "CANARY"
URLS = {
    "a password": f"https://user:{CANARY}@host/data.zip",
    "no scheme": f"user:{CANARY}@host/data.zip",
    "no scheme but its slashes": f"//user:{CANARY}@host/data.zip",
    "a user": f"https://{CANARY}@host/data.zip",
    "a password with a slash": f"https://user:{CANARY}/{CANARY}@host/data.zip",
    "a query": f"https://host/data.zip?token={CANARY}",
    "a signature": f"https://host/data.zip?X-Amz-Credential=a&X-Amz-Signature={CANARY}",
    "a fragment": f"https://host/data.zip#access_token={CANARY}",
    "a store": f"s3://key:{CANARY}@bucket/runs",
    "a query of a store": f"az://account/container?sig={CANARY}",
    "a query of a bucket": f"gs://bucket?key={CANARY}",
    "a query without a scheme": f"registry.example.com/name?t={CANARY}",
    "a token with a slash": f"http://host/{CANARY}@x:y?z",
    "another scheme": f"ftp://user:{CANARY}@host/x",
}
MISTAKES = {
    "data.url of a set without one": "data: {dataset: digits, url: '%s'}\nmodel: {kind: cnn}\n",
    "data.url that is none": "data: {dataset: mnist, url: '%s '}\nmodel: {kind: cnn}\n",
    "data.url without a checksum": "data: {dataset: text, url: '%s'}\nmodel: {kind: rnn}\n",
    "data.url beside data.path": "data: {dataset: text, path: x, url: '%s'}\nmodel: {kind: rnn}\n",
    "data.path": "data: {dataset: images, path: '%s'}\nmodel: {kind: cnn}\n",
    "a list of URLs": "data: {dataset: text, url: ['%s', '%s']}\nmodel: {kind: rnn}\n",
    "an unknown key with one": "mystery: '%s'\nmodel: {kind: cnn}\n",
    "a key that is one": "'%s': 1\nmodel: {kind: cnn}\n",
    "a key in a section": "data: {'%s': 1, dataset: digits}\nmodel: {kind: cnn}\n",
    "a kind": "model: {kind: '%s'}\n",
    "a data set": "data: {dataset: '%s'}\nmodel: {kind: cnn}\n",
    "a store": "store: '%s'\nmodel: {kind: cnn}\ndata: {dataset: digits}\ntrain: {epochs: 0}\n",
    "a store that is a list": "store: ['%s']\nmodel: {kind: cnn}\n",
    "a name": "name2: '%s'\nname: '%s'\nmodel: {kind: cnn}\n",
    "an accelerator": "resources: {accelerator: '%s'}\nmodel: {kind: cnn}\n",
    "a duration": "limits: {duration: '%s'}\nmodel: {kind: cnn}\n",
    "an image": "image: {base: '%s', dockerfile: '%s'}\nmodel: {kind: script, command: 'true'}\n",
    "a folder": "model: {kind: script, command: 'true', directory: '%s'}\n",
    "a secret": "secrets: ['%s']\nmodel: {kind: script, command: 'true'}\n",
    "a variable": "env: {URL: '%s', 1: 2}\nmodel: {kind: script, command: 'true'}\n",
    "no YAML behind it": "data: {url: '%s'\nmodel: [\n",
    "no YAML on its line": "data: {url: '%s', ]}\n",
    "a tag": "data: !<%s> 1\nmodel: {kind: cnn}\n",
    "a key twice": "'%s': 1\n'%s': 2\nmodel: {kind: cnn}\n",
    "a block": "mystery: |\n  %s\nmodel: {kind: cnn}\n",
}


@pytest.fixture(scope="module")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return command_line_of(tmp_path_factory.mktemp("canary"))


@pytest.mark.slow
def test_no_mistake_of_a_job_file_repeats_the_credentials_of_a_url(command_line: CommandLine) -> None:
    files = []
    for number, (mistake, text) in enumerate(MISTAKES.items()):
        for place, url in enumerate([*URLS.values(), *(_escaped(url) for url in URLS.values())]):
            file = command_line.folder / f"{number}-{place}.yaml"
            quoted = text.replace("'%s'", f'"{url}"') if "\\u" in url else text.replace("%s", url)
            file.write_text(f"{'' if 'name' in mistake else 'name: job'}\n{quoted}")
            files.append(file.name)
    for options in ((), ("--json",)):
        ended = command_line("validate", *files, *options)
        assert ended.status == 3
        assert CANARY not in ended.text + ended.err
    assert "•" in ended.text.encode().decode("unicode_escape")


def _escaped(url: str) -> str:
    """The same URL in a quoted text of YAML, without a slash in it."""
    return url.replace("/", "\\u002f")


@pytest.mark.slow
@pytest.mark.parametrize("url", URLS.values(), ids=URLS.keys())
def test_nor_does_a_command_line_or_a_config_file(command_line: CommandLine, url: str) -> None:
    folder = command_line.folder
    (folder / "job.yaml").write_text("name: job\nmodel: {kind: cnn}\ndata: {dataset: digits}\n")
    (folder / "site.yaml").write_text(f"store: '{url}'\nprovider: '{url}'\n'{url}': 1\ngcp: {{endpoint: '{url}', '{url}': 1}}\n")
    for arguments in (
        ["validate", "job.yaml", "--set", f"data.url={url}"],
        ["validate", "job.yaml", "--set", f"{url}=1"],
        ["validate", "job.yaml", "--set", url],
        ["validate", "job.yaml", "--set", f"train.epochs={url}"],
        ["validate", "job.yaml", "--config", "site.yaml"],
        ["submit", "job.yaml", "--store", url.replace("https://host", "s4://host"), "--dry-run"],
        ["submit", "job.yaml", "--provider", url],
        ["list", "--store", url.replace("s3://", "s4://")],
        ["adopt", url.replace("s3://", "s4://")],
        ["status", url],
        ["list", "--store", url],
        ["adopt", f"{url}/job-261130-120000-abcd"],
        ["package", "job.yaml", "--repository", url, "--push"],
        ["pack", ".", url],
    ):
        ended = command_line(*arguments)
        assert ended.status != 1, (arguments, ended)
        assert CANARY not in ended.text + ended.err, arguments


def text_job(url: str) -> str:
    return f"name: job\nmodel: {{kind: rnn}}\ndata: {{dataset: text, url: '{url}', sha256: '{'0' * 64}'}}\n"


@pytest.mark.parametrize(
    "url",
    [
        f"https://bucket.s3.amazonaws.com/x?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature={CANARY}",
        f"https://storage.googleapis.com/b/x?X-Goog-Signature={CANARY}",
        f"https://account.blob.core.windows.net/c/x?sv=2025-01-05&sig={CANARY}",
        f"https://cdn.example.com/x?Expires=1&Signature={CANARY}&Key-Pair-Id=K",
        f"https://example.com/x?AWSAccessKeyId={CANARY}",
        f"https://example.com/x?accessToken={CANARY}",
        f"https://example.com/x?apikey={CANARY}",
        f"https://example.com/x#access_token={CANARY}",
        f"https://example.com/x?to=https%3A%2F%2Fh%2F%3Fsig%3D{CANARY}",
    ],
)
def test_a_signed_url_in_a_job_file_is_refused_and_written_nowhere(command_line: CommandLine, url: str) -> None:
    folder = command_line.folder
    (folder / "signed.yaml").write_text(text_job(url))
    for arguments in (["validate"], ["validate", "--json"], ["submit"], ["submit", "--dry-run"], ["submit", "--dry-run", "--json"]):
        ended = (
            command_line(*arguments, "signed.yaml", "--store", folder / "signed-runs")
            if "submit" in arguments
            else command_line(*arguments, "signed.yaml")
        )
        assert ended.status == 3, ended
        assert "must not be in a job file" in ended.text + ended.err
        assert CANARY not in ended.text + ended.err
    assert not (folder / "signed-runs").exists()


@pytest.mark.parametrize("query", ["download=1", "export=download&id=1", "version=2&monkey=x", "tokenizer=bpe"])
def test_a_query_that_signs_nothing_is_allowed(command_line: CommandLine, query: str) -> None:
    (command_line.folder / "plain.yaml").write_text(text_job(f"https://example.com/x?{query}"))
    assert command_line("validate", "plain.yaml").status == 0


@pytest.mark.parametrize("more", [f"image: {{base: 'registry.example.com/x?t={CANARY}'}}", f"store: 'gs://bucket/x?sig={CANARY}'"])
def test_neither_an_image_nor_a_store_has_a_signature(command_line: CommandLine, more: str) -> None:
    (command_line.folder / "queried.yaml").write_text(f"name: job\nmodel: {{kind: script, command: 'true'}}\n{more}\n")
    for options in ([], ["--json"]):
        ended = command_line("validate", "queried.yaml", *options)
        assert ended.status == 3
        assert CANARY not in ended.text + ended.err


def test_a_dry_run_shows_a_url_without_its_query(command_line: CommandLine) -> None:
    (command_line.folder / "text.yaml").write_text(text_job(f"https://host/data.zip?part={CANARY}"))
    ended = command_line("submit", "text.yaml", "--dry-run")
    assert ended.status == 0, ended
    assert "https://host/data.zip?…" in ended.text
    assert CANARY not in ended.text + ended.err


def test_an_error_of_any_kind_is_shown_without_the_credentials_of_a_url() -> None:
    from cloud_train.cli.errors import explain

    for url in URLS.values():
        for error in (CloudTrainError(f"cannot read {url}", hint=f"see {url}"), OSError(13, "refused", url), ValueError(url)):
            failure = explain(error)
            assert CANARY not in f"{failure.message} {failure.hint}"
