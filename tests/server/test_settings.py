"""The server's settings: flags, environment variables, the settings file, and the errors of wrong ones."""

import hashlib
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import trustme

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.settings import Settings, SettingsError, load, read_tls_files, read_tokens, unknown_variables
from poolservice_server.settings.environment import variable_of
from poolservice_server.testing import Service

RunServer = Callable[..., "subprocess.CompletedProcess[str]"]
StartServer = Callable[..., Service]

# No machine has this address: it is reserved for documentation (RFC 5737).
NOT_THIS_MACHINE = "203.0.113.1:50051"


def failure(run_server: RunServer, *flags: str, env: dict[str, str] | None = None) -> str:
    """Return the one sentence with which the server refuses to start. Only log lines may precede it."""
    ended = run_server(*flags, env=env)
    assert ended.returncode == 2
    assert ended.stdout == ""
    *log, sentence = ended.stderr.splitlines()
    assert sentence.startswith("poolservice-server: ")
    assert all("[warning  ]" in line for line in log)
    return sentence


def limits(service: Service) -> pb.Limits:
    with grpc.insecure_channel(service.address) as channel:
        return PoolServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest()).limits


def test_help_explains_every_setting_with_its_default(run_server: RunServer) -> None:
    help_text = " ".join(run_server("--help").stdout.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in help_text
        assert field.description is not None
        default = "none" if field.default is None else field.default
        assert f"{field.description} (default: {default})" in help_text
        if field.default is None:
            assert "; none: " in field.description
    assert "null" not in help_text
    assert "POOLSERVICE_LISTEN" in help_text


@pytest.mark.parametrize(
    ("flags", "env", "words"),
    [
        (["--address", ""], {}, "must be HOST:PORT, such as 0.0.0.0:50051 or [::]:50051, or unix:PATH; got ''"),
        (
            ["--auth-token-file", ""],
            {},
            "auth_token_file (--auth-token-file, POOLSERVICE_AUTH_TOKEN_FILE): must be a path",
        ),
        (["--config", ""], {}, "config (--config, POOLSERVICE_CONFIG): must be a path"),
        (["--address", "nowhere"], {}, "address (--address, POOLSERVICE_LISTEN): must be HOST:PORT"),
        ([], {"POOLSERVICE_LISTEN": "nowhere"}, "address (--address, POOLSERVICE_LISTEN): must be HOST:PORT"),
        (["--max-batch-size", "0"], {}, "max_batch_size (--max-batch-size, POOLSERVICE_MAX_BATCH_SIZE): must be"),
        (["--max-request-seconds", "0"], {}, "POOLSERVICE_MAX_REQUEST_SECONDS): must be greater than 0; got '0'"),
        (["--max-connections", "0"], {}, "(--max-connections, POOLSERVICE_MAX_CONNECTIONS): must be"),
        (["--max-calls", "0"], {}, "(--max-calls, POOLSERVICE_MAX_CALLS): must be greater than or equal to 1; got '0'"),
        (["--max-unread-bytes", "-1"], {}, "(--max-unread-bytes, POOLSERVICE_MAX_UNREAD_BYTES): must be"),
        (["--receive-timeout", "0"], {}, "(--receive-timeout, POOLSERVICE_RECEIVE_TIMEOUT): must be greater than 0"),
        (["--send-timeout", "soon"], {}, "POOLSERVICE_SEND_TIMEOUT): must be a number; got 'soon'"),
        (["--workers", "two"], {}, "(--workers, POOLSERVICE_WORKERS): must be a whole number; got 'two'"),
        (["--workers", "1.5"], {}, "(--workers, POOLSERVICE_WORKERS): must be a whole number; got '1.5'"),
        (["--caller-max-requests", "-1"], {}, "(--caller-max-requests, POOLSERVICE_CALLER_MAX_REQUESTS): must be"),
        (["--caller-max-calls", "-1"], {}, "(--caller-max-calls, POOLSERVICE_CALLER_MAX_CALLS): must be"),
        (["--caller-max-bytes", "1.5"], {}, "(--caller-max-bytes, POOLSERVICE_CALLER_MAX_BYTES): must be"),
        (["--caller-max-seconds", "-1"], {}, "(--caller-max-seconds, POOLSERVICE_CALLER_MAX_SECONDS): must be"),
        ([], {"POOLSERVICE_CALLER_MAX_RATE": "fast"}, "(--caller-max-rate, POOLSERVICE_CALLER_MAX_RATE): must be"),
        (["--decode-isolation", "vm"], {}, "POOLSERVICE_DECODE_ISOLATION): must be 'thread' or 'process'; got 'vm'"),
        ([], {"POOLSERVICE_INSECURE": "maybe"}, "POOLSERVICE_INSECURE): must be true or false; got 'maybe'"),
        (
            ["--metrics-address", "127.0.0.1:0", "--metrics-token-file", "missing"],
            {},
            "cannot read --metrics-token-file missing: No such file or directory",
        ),
        (["--max-request-seconds", "nan"], {}, "(--max-request-seconds, POOLSERVICE_MAX_REQUEST_SECONDS): must be"),
        (["--grace-period", "inf"], {}, "(--grace-period, POOLSERVICE_GRACE_PERIOD): must be less than or equal to"),
        (
            ["--metrics-address", "unix:/tmp/metrics"],
            {},
            "(--metrics-address, POOLSERVICE_METRICS_ADDRESS): must be HOST:PORT, such as 127.0.0.1:9090",
        ),
        ([], {"POOLSERVICE_THREADS": "many"}, "threads (--threads, POOLSERVICE_THREADS): must be"),
        (["--device", "cuda:99"], {}, "(--device, --require-gpu)"),
        (["--require-gpu"], {"POOLSERVICE_DEVICE": "cpu"}, "--require-gpu"),
        (["--config", "missing.toml"], {}, "missing.toml"),
        ([], {"POOLSERVICE_CONFIG": "missing.toml"}, "missing.toml"),
        (["--address", NOT_THIS_MACHINE], {}, f"cannot listen on {NOT_THIS_MACHINE} (--address): Cannot assign"),
        (["--metrics-address", NOT_THIS_MACHINE], {}, "(--metrics-address): Cannot assign requested address"),
        (["--address"], {}, "argument --address: expected one argument"),
        (["--bogus"], {}, "unknown argument --bogus (poolservice-server --help lists the flags)"),
        (["--adress", "127.0.0.1:0"], {}, "unknown argument --adress; did you mean --address?"),
        (["--max-batchsize=8"], {}, "unknown argument --max-batchsize; did you mean --max-batch-size?"),
        (["doctr"], {}, "unknown command doctr; did you mean doctor?"),
        (["50051"], {}, "unknown command 50051; the commands are backbone, doctor, health, ray, tune"),
    ],
)
def test_a_wrong_setting_is_reported_in_one_sentence(
    run_server: RunServer, flags: list[str], env: dict[str, str], words: str
) -> None:
    assert words in failure(run_server, *flags, env=env)


def test_an_unknown_key_of_the_settings_file_is_refused_with_the_nearest_name(
    run_server: RunServer, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("max_batchsize = 8\n")
    sentence = failure(run_server, "--config", str(file))
    assert f"max_batchsize in {file} is not a setting; did you mean max_batch_size?" in sentence


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"max_batch_size = = 8\n", "the settings file FILE is not TOML: Invalid value (at line 1"),
        (b"address = '\xff'\n", "the settings file FILE is not UTF-8 text"),
        (b"[batches]\nsize = 8\n", "batches in FILE is not a setting"),
        (
            b"max_batch_size = 'many'\n",
            "max_batch_size in FILE (--max-batch-size, POOLSERVICE_MAX_BATCH_SIZE): must be",
        ),
    ],
)
def test_an_error_in_the_settings_file_names_the_file(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        load(["--config", str(file)])
    assert words in str(refused.value).replace(str(file), "FILE")


def test_an_error_in_a_flag_does_not_name_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("max_batch_size = 8\n")
    with pytest.raises(SettingsError) as refused:
        load(["--config", str(file), "--max-batch-size", "0"])
    assert str(file) not in str(refused.value)


def test_an_address_in_use_is_reported_in_one_sentence(server_address: str, run_server: RunServer) -> None:
    assert failure(run_server, "--address", server_address).endswith(
        "Address already in use; stop the process that listens there (`poolservice-server doctor` names it), or choose "
        "another port"
    )


def test_a_unix_socket_in_use_is_left_to_its_server(
    start_server: StartServer, run_server: RunServer, tmp_path: Path
) -> None:
    server = start_server("--address", f"unix:{tmp_path}/pool.sock")
    assert "another process listens on it" in failure(run_server, "--address", server.address)
    assert limits(server).max_batch_size == 64


def test_a_path_on_which_no_socket_can_be_is_reported(run_server: RunServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "there is no folder" in failure(run_server, "--address", f"unix:{tmp_path}/missing/pool.sock")
    assert "the path is not that of a socket" in failure(run_server, "--address", f"unix:{tmp_path}/file")


def test_flags_override_the_environment_which_overrides_the_file(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("max_batch_size = 3\nmax_queue_items = 30\nmax_image_pixels = 300\n")
    server = start_server(
        *("--config", str(file), "--max-batch-size", "5"),
        env={"POOLSERVICE_MAX_BATCH_SIZE": "4", "POOLSERVICE_MAX_QUEUE_ITEMS": "40"},
    )
    found = limits(server)
    assert (found.max_batch_size, found.max_queue_items, found.max_image_pixels) == (5, 40, 300)


def test_the_environment_names_the_address_to_listen_on(run_server: RunServer, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('address = "127.0.0.1:0"\n')
    assert NOT_THIS_MACHINE in failure(run_server, "--config", str(file), env={"POOLSERVICE_LISTEN": NOT_THIS_MACHINE})


def test_the_server_does_not_listen_on_the_address_of_its_clients(run_server: RunServer) -> None:
    # The device is checked after the address, so this server would have listened.
    sentence = failure(run_server, "--device", "cuda:99", env={"POOLSERVICE_ADDRESS": NOT_THIS_MACHINE})
    assert "(--device, --require-gpu)" in sentence


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable_of(name), raising=False)
    defaults = load([])
    for name in Settings.model_fields:
        monkeypatch.setenv(variable_of(name), "")
    assert load([]) == defaults


def test_an_empty_variable_leaves_the_settings_file_in_force(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POOLSERVICE_MAX_BATCH_SIZE", "")
    path = tmp_path / "settings.toml"
    path.write_text("max_batch_size = 7")
    assert load(["--config", str(path)]).max_batch_size == 7
    path.write_text("max_batch_size = 0")
    with pytest.raises(SettingsError, match=r"max_batch_size in .*settings\.toml"):
        load(["--config", str(path)])


@pytest.mark.parametrize(
    ("address", "metrics_address"),
    [("127.0.0.1:9", "127.0.0.1:9"), ("0.0.0.0:9", "127.0.0.1:9"), ("127.0.0.1:9", "[::]:9")],
)
def test_an_address_cannot_serve_calls_and_metrics(address: str, metrics_address: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(["--address", address, "--metrics-address", metrics_address])
    assert str(refused.value) == "--address and --metrics-address are the same; give them different ports"


@pytest.mark.parametrize(
    ("address", "metrics_address"),
    [("127.0.0.1:0", "127.0.0.1:0"), ("127.0.0.1:9", "127.0.0.1:10"), ("127.0.0.1:9", "127.0.0.2:9")],
)
def test_addresses_that_differ_serve_calls_and_metrics(address: str, metrics_address: str) -> None:
    assert load(["--address", address, "--metrics-address", metrics_address]).metrics_address == metrics_address


def test_an_unknown_variable_is_reported_with_the_nearest_name(start_server: StartServer) -> None:
    server = start_server(env={"POOLSERVICE_MAX_BATCHSIZE": "8"})
    assert (
        "POOLSERVICE_MAX_BATCHSIZE is not a setting and has no effect; did you mean POOLSERVICE_MAX_BATCH_SIZE?"
        in server.log()
    )
    assert limits(server).max_batch_size == 64


@pytest.mark.parametrize(
    "variable",
    [
        "POOLSERVICE_ADDRESS",
        "POOLSERVICE_TOKEN",
        "POOLSERVICE_CA",
        "POOLSERVICE_CLIENT_CERTIFICATE",
        "POOLSERVICE_CLIENT_KEY",
        "POOLSERVICE_IMAGE",
        "POOLSERVICE_TEST_ENGINE",
        "POOLSERVICE_PORT",
        "POOLSERVICE_PORT_50051_TCP_ADDR",
        "POOLSERVICE_SERVICE_HOST",
        "POOLSERVICE_SERVICE_PORT_GRPC",
    ],
)
def test_variables_of_other_programs_are_not_reported(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "x")
    assert unknown_variables(Settings.model_fields) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "the traffic is not encrypted (--tls-certificate, --tls-key) and anybody may call it"),
        (("TLS",), "anybody may call it (--auth-token-file or --tls-client-ca)"),
        (("--auth-token-file", "TOKENS"), "the traffic is not encrypted (--tls-certificate, --tls-key)"),
    ],
)
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_a_public_address_without_protection_is_refused(
    run_server: RunServer, tls_flags: list[str], tmp_path: Path, flags: tuple[str, ...], words: str, host: str
) -> None:
    (tmp_path / "tokens").write_text("secret\n")
    replaced = {"TLS": tls_flags, "TOKENS": [str(tmp_path / "tokens")]}
    arguments = [argument for flag in flags for argument in replaced.get(flag, [flag])]
    sentence = failure(run_server, "--address", f"{host}:0", *arguments)
    assert words in sentence
    assert "add what is missing" in sentence
    assert "--address 127.0.0.1:PORT" in sentence
    assert "--insecure (POOLSERVICE_INSECURE=true)" in sentence


def test_a_public_address_is_served_with_a_warning_if_that_is_intended(start_server: StartServer) -> None:
    server = start_server("--address", "0.0.0.0:0", "--insecure")
    assert "serving without protection because of --insecure" in server.log()


def test_a_public_address_with_tls_and_tokens_is_served(
    start_server: StartServer, tls_flags: list[str], tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("secret\n")
    server = start_server("--address", "0.0.0.0:0", *tls_flags, "--auth-token-file", str(tmp_path / "tokens"))
    assert "without protection" not in server.log()


@pytest.mark.parametrize(
    ("certificate", "key", "client_ca", "words"),
    [
        ("photo", "photo", None, "--tls-certificate PHOTO contains no certificate in PEM"),
        ("certificate", "photo", None, "--tls-key PHOTO contains no private key in PEM"),
        ("key", "certificate", None, "--tls-certificate KEY contains a private key and no certificate: are the two"),
        ("certificate", "certificate", None, "--tls-key CERTIFICATE contains a certificate and no private key"),
        ("certificate", "other_key", None, "--tls-key OTHER_KEY is not the key of --tls-certificate CERTIFICATE"),
        ("damaged", "key", None, "--tls-certificate DAMAGED contains a damaged certificate"),
        ("certificate", "damaged_key", None, "--tls-key DAMAGED_KEY cannot be used together"),
        ("certificate", "encrypted", None, "--tls-key ENCRYPTED is encrypted"),
        ("certificate", "key", "photo", "--tls-client-ca PHOTO contains no certificate in PEM"),
        ("certificate", "key", "damaged", "--tls-client-ca DAMAGED contains a damaged certificate"),
        ("certificate", "key", "key", "--tls-client-ca KEY contains a private key"),
        ("certificate", "missing", None, "cannot read --tls-key MISSING: No such file or directory"),
        ("certificate", None, None, "TLS needs both tls_certificate and tls_key"),
        (None, None, "certificate", "TLS needs both tls_certificate and tls_key"),
    ],
)
def test_a_wrong_tls_file_is_named_with_its_fault(
    tmp_path: Path, photograph: Path, certificate: str | None, key: str | None, client_ca: str | None, words: str
) -> None:
    ca = trustme.CA()
    issued, other = ca.issue_cert("localhost"), ca.issue_cert("localhost")
    chain, private = issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()
    contents = {
        "certificate": chain,
        "key": private,
        "other_key": other.private_key_pem.bytes(),
        "photo": photograph.read_bytes(),
        "damaged": chain.replace(b"MII", b"NII", 1),
        "damaged_key": private.replace(b"M", b"A", 1),
        "encrypted": private.replace(b"PRIVATE", b"ENCRYPTED PRIVATE"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    names = {"--tls-certificate": certificate, "--tls-key": key, "--tls-client-ca": client_ca}
    settings = load([f"{flag}={tmp_path / name}" for flag, name in names.items() if name])
    with pytest.raises(SettingsError) as refused:
        read_tls_files(settings)
    sentence = str(refused.value)
    for name in sorted((*contents, "missing"), key=len, reverse=True):
        sentence = sentence.replace(str(tmp_path / name), name.upper())
    assert words in sentence


def test_a_wrong_tls_file_is_reported_before_the_server_listens(run_server: RunServer, photograph: Path) -> None:
    sentence = failure(run_server, "--tls-certificate", str(photograph), "--tls-key", str(photograph))
    assert f"--tls-certificate {photograph} contains no certificate" in sentence


def test_tokens_are_kept_as_hashes_and_named(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"hashed-token").hexdigest()
    file = tmp_path / "tokens"
    file.write_text(f"# comment\n\nplain-token\nnamed-token alice\nsha256:{digest.upper()} bob\n")
    tokens = read_tokens(file, "--auth-token-file")
    assert tokens.owner("plain-token") == hashlib.sha256(b"plain-token").hexdigest()[:8]
    assert tokens.owner("named-token") == "alice"
    assert tokens.owner("hashed-token") == "bob"
    for unknown in ("", "plain", "plain-token ", f"sha256:{digest}", digest, "# comment", "alice"):
        assert tokens.owner(unknown) is None
    assert b"plain-token" not in pickle.dumps(tokens)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("secret-token name more\n", "line 1 of --auth-token-file FILE must be TOKEN NAME"),
        ("\nsecret-token na/me\n", "line 2 of --auth-token-file FILE must be TOKEN NAME"),
        ("sha256:secret-token\n", "line 1 of --auth-token-file FILE must have 64 hexadecimal digits"),
        ("# secret-token\n", "--auth-token-file FILE contains no token"),
    ],
)
def test_a_wrong_token_file_is_reported_without_its_tokens(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(content)
    with pytest.raises(SettingsError) as refused:
        read_tokens(file, "--auth-token-file")
    sentence = str(refused.value).replace(str(file), "FILE")
    assert words in sentence
    assert "secret-token" not in sentence
