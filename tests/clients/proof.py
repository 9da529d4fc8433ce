"""What a client needs to check hefu's proofs, from the specifications alone: RFC 9162 (section 2.1) for trees,
C2SP signed-note, tlog-checkpoint and tlog-cosignature for signatures. Nothing of hefu's is used."""

import base64
import hashlib
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

# Algorithm bytes of a verifier key.
ED25519, COSIGNATURE_V1 = 1, 4


class NotProven(Exception):
    """A proof that does not hold, or a signature that is missing or wrong."""


class Checkpoint(NamedTuple):
    origin: str
    size: int
    root: bytes


class Key(NamedTuple):
    """A verifier key: name+id+base64(algorithm, key)."""

    name: str
    id: bytes
    algorithm: int
    raw: bytes

    @classmethod
    def parse(cls, text):
        name, key_id, encoded = text.split("+", 2)
        key = base64.b64decode(encoded, validate=True)
        expected = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
        if bytes.fromhex(key_id) != expected or len(key) != 33:
            raise NotProven(f"{text} is no verifier key")
        return cls(name, expected, key[0], key[1:])

    def verify(self, signature, message):
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except Exception as error:
            raise NotProven(f"the signature of {self.name} is wrong") from error


def leaf_hash(entry):
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def need(true, what):
    if not true:
        raise NotProven(what)


def check_inclusion(leaf, index, size, path, root):
    """RFC 9162 section 2.1.3.2."""
    need(index < size, "the index is beyond the tree")
    at, last, value = index, size - 1, leaf
    for sibling in path:
        need(last > 0, "the path is too long")
        if at & 1 or at == last:
            value = node_hash(sibling, value)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            value = node_hash(value, sibling)
        at, last = at >> 1, last >> 1
    need(last == 0, "the path is too short")
    need(value == root, "the path leads to another root")


def check_consistency(old_size, old_root, new_size, new_root, path):
    """RFC 9162 section 2.1.4.2: the old tree is a prefix of the new one."""
    need(0 < old_size < new_size, "one tree must be smaller than the other")
    path = list(path)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    need(path, "the path is empty")
    at, last = old_size - 1, new_size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        need(last > 0, "the path is too long")
        if at & 1 or at == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        at, last = at >> 1, last >> 1
    need(last == 0, "the path is too short")
    need(old == old_root and new == new_root, "the path leads to other roots")


def signatures(note, key):
    """The note's text, and its signatures under this key."""
    text, lines = note.split("\n\n", 1)
    found = []
    for line in lines.splitlines():
        dash, name, encoded = line.split(" ")
        need(dash == "\u2014", "no signature line")
        signature = base64.b64decode(encoded, validate=True)
        if name == key.name and signature[:4] == key.id:
            found.append(signature[4:])
    need(found, f"{key.name} has not signed")
    return text + "\n", found


def check_checkpoint(note, key):
    """A checkpoint signed by the log that it speaks of."""
    need(key.algorithm == ED25519, "not the key of a log")
    text, found = signatures(note, key)
    for signature in found:
        key.verify(signature, text.encode())
    origin, size, root = text.splitlines()[:3]
    need(origin == key.name, "the checkpoint of another log")
    return Checkpoint(origin, int(size), base64.b64decode(root, validate=True))


def check_cosignature(note, key):
    """The second at which another node said that it holds all of this, verified and durable."""
    need(key.algorithm == COSIGNATURE_V1, "not the key of a cosigner")
    text, found = signatures(note, key)
    for stamped in found:
        time = int.from_bytes(stamped[:8], "big")
        key.verify(stamped[8:], f"cosignature/v1\ntime {time}\n{text}".encode())
    return time


class KeyChange(NamedTuple):
    """A log is signed with another key; the old one is believed up to a size."""

    old: Key
    new: Key
    size: int
    root: bytes
    by_old: bool

    @classmethod
    def parse(cls, note):
        text = note.split("\n\n", 1)[0] + "\n"
        title, old, new, size, root, _ = text.splitlines()
        need(title == "hefu key change v1", "no key change")
        old, new = Key.parse(old), Key.parse(new)
        need(old.name == new.name, "keys of two logs")
        for signature in signatures(note, new)[1]:
            new.verify(signature, text.encode())
        try:
            by_old = signatures(note, old)[1]
        except NotProven:
            by_old = []
        for signature in by_old:
            old.verify(signature, text.encode())
        return cls(old, new, int(size), base64.b64decode(root, validate=True), bool(by_old))


def check_history(trusted, changes):
    """The keys of a log from one that is trusted on, each with the size up to which it is believed (None: in force)."""
    keys = [(trusted, None)]
    for change in map(KeyChange.parse, changes):
        need(change.old == keys[-1][0] and change.by_old, "the key before does not vouch for it")
        believed = [(k, change.size if until is None else min(until, change.size)) for k, until in keys]
        keys = [*believed, (change.new, None)]
    return keys


def check_by_history(note, keys):
    """A checkpoint that one of these keys has signed, of no more than it is believed for."""
    for key, until in keys:
        try:
            checkpoint = check_checkpoint(note, key)
        except NotProven:
            continue
        need(until is None or checkpoint.size <= until, "its key was replaced before")
        return checkpoint
    raise NotProven("no key of the log has signed it")
