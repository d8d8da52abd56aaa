"""A DNS server on this machine whose records a test changes."""

import socket
import struct
import threading

_TYPE_A = 1
_HEADER_BYTES = 12
# A record of the name in the question: class IN, not to be cached, four bytes.
_RECORD = b"\xc0\x0c" + struct.pack(">HHIH", _TYPE_A, 1, 0, 4)


class NameServer:
    """Answers every question for an IPv4 address with the same addresses.

    Attributes:
        hosts: the addresses.
    """

    def __init__(self, *hosts: str) -> None:
        self.hosts = list(hosts)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def target(self, port: int) -> str:
        """Return the address at which a client finds the hosts by this server."""
        return f"dns://127.0.0.1:{self._socket.getsockname()[1]}/pool.test:{port}"

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, sender = self._socket.recvfrom(512)
            if not question:
                return
            self._socket.sendto(self._answer(question), sender)

    def _answer(self, question: bytes) -> bytes:
        end = question.index(b"\0", _HEADER_BYTES) + 5
        (record_type,) = struct.unpack_from(">H", question, end - 4)
        hosts = list(self.hosts) if record_type == _TYPE_A else []
        # The flags say: a response, without an error.
        header = question[:2] + struct.pack(">HHHHH", 0x8180, 1, len(hosts), 0, 0)
        return header + question[_HEADER_BYTES:end] + b"".join(_RECORD + socket.inet_aton(host) for host in hosts)
