"""The server's settings: flags override environment variables, which override the settings file and the defaults."""

from poolservice_server.settings.environment import unknown_variables
from poolservice_server.settings.errors import SettingsError
from poolservice_server.settings.loader import load, load_as, settings_of
from poolservice_server.settings.model import LARGEST_MESSAGE_BYTES, Settings
from poolservice_server.settings.read_files import read_file
from poolservice_server.settings.tls_files import TlsFiles, read_tls_files, tls_paths
from poolservice_server.settings.tokens import SAFE_TOKEN_CHARACTERS, Tokens, read_tokens, short_tokens

__all__ = [
    "LARGEST_MESSAGE_BYTES",
    "SAFE_TOKEN_CHARACTERS",
    "Settings",
    "SettingsError",
    "TlsFiles",
    "Tokens",
    "load",
    "load_as",
    "read_file",
    "read_tls_files",
    "read_tokens",
    "settings_of",
    "short_tokens",
    "tls_paths",
    "unknown_variables",
]
