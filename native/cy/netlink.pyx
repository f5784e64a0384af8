# cython: language_level=3, binding=True, auto_pickle=False, autotestdict=False
"""rtnetlink messages and attributes. `native/reference/netlink.py` is the twin with the same signatures; what is said there holds here."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memset

from native.reference.netlink import Message, NetlinkInvalid

__all__ = ["pack_attributes", "pack_message", "parse_messages", "unpack_attributes"]

cdef extern from *:
    """
    #include <stdint.h>
    struct zos_message_header { uint32_t length; uint16_t type; uint16_t flags; uint32_t sequence; uint32_t port; };
    struct zos_attribute_header { uint16_t length; uint16_t type; };
    """
    struct MessageHeader "zos_message_header":
        uint32_t length
        uint16_t type
        uint16_t flags
        uint32_t sequence
        uint32_t port
    struct AttributeHeader "zos_attribute_header":
        uint16_t length
        uint16_t type

cdef enum:
    DATAGRAM_MAX = 1 << 20
    VALUE_MAX = 0xFFFF - 4
    NESTING_MAX = 8
    TYPE_MASK = 0x3FFF

# A buffer that grows. Nested attributes are written in place, and their length is filled in afterwards: no copy per level.
cdef struct Out:
    char *data
    Py_ssize_t size
    Py_ssize_t room


cdef inline Py_ssize_t padding(Py_ssize_t length) noexcept:
    return -length & 3


cdef uint32_t number(str name, object value, int bits) except? 0xFFFFFFFF:
    """The value as an unsigned number of so many bits; whatever `int` cannot hold there is refused like in the twin."""
    if not isinstance(value, int):
        raise TypeError(f"netlink: {name} must be an int, not {type(value).__name__}")
    if not 0 <= value < <object>(1ULL << bits):
        raise NetlinkInvalid(f"netlink: {name} {value} does not fit {bits} bits")
    return value


cdef int reserve(Out *out, Py_ssize_t more) except -1:
    cdef Py_ssize_t room
    cdef char *data
    if out.size + more <= out.room:
        return 0
    room = max(2 * out.room, out.size + more, 256)
    data = <char *>PyMem_Realloc(out.data, room)
    if data == NULL:
        raise MemoryError()
    out.data = data
    out.room = room
    return 0


cdef int put_attributes(Out *out, object attributes, int depth) except -1:
    cdef AttributeHeader header
    cdef Py_ssize_t start, length
    cdef object kind, value
    if depth > NESTING_MAX:
        raise NetlinkInvalid(f"netlink: attributes nested deeper than {NESTING_MAX}")
    for kind, value in attributes:
        header.type = <uint16_t>number("attribute type", kind, 16)
        start = out.size
        reserve(out, sizeof(header))
        out.size += sizeof(header)
        if isinstance(value, bytes):
            length = PyBytes_GET_SIZE(value)
            if length > VALUE_MAX:
                raise NetlinkInvalid(f"netlink: a value of {length} bytes is above {VALUE_MAX}")
            reserve(out, length)
            memcpy(out.data + out.size, PyBytes_AS_STRING(value), length)
            out.size += length
        else:
            put_attributes(out, value, depth + 1)
            length = out.size - start - <Py_ssize_t>sizeof(header)
            if length > VALUE_MAX:
                raise NetlinkInvalid(f"netlink: a value of {length} bytes is above {VALUE_MAX}")
        header.length = <uint16_t>(sizeof(header) + length)
        memcpy(out.data + start, &header, sizeof(header))
        reserve(out, 3)
        memset(out.data + out.size, 0, padding(length))
        out.size += padding(length)
    return 0


def pack_message(type, flags, sequence, bytes payload not None):
    """Build one message with port 0, padded to four bytes, so that messages can be joined into one datagram."""
    cdef MessageHeader header
    cdef Py_ssize_t length = <Py_ssize_t>sizeof(header) + PyBytes_GET_SIZE(payload)
    cdef bytes packed
    cdef char *to
    header.type = <uint16_t>number("type", type, 16)
    header.flags = <uint16_t>number("flags", flags, 16)
    header.sequence = <uint32_t>number("sequence", sequence, 32)
    header.port = 0
    if length > DATAGRAM_MAX:
        raise NetlinkInvalid(f"netlink: a message of {length} bytes is above {DATAGRAM_MAX}")
    header.length = <uint32_t>length
    packed = PyBytes_FromStringAndSize(NULL, length + padding(length))
    to = PyBytes_AS_STRING(packed)
    memcpy(to, &header, sizeof(header))
    memcpy(to + sizeof(header), PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
    memset(to + length, 0, padding(length))
    return packed


def pack_attributes(attributes):
    """Build attributes in the order given; a value that is a sequence is nested. NLA_F_NESTED is set only where the caller sets it in the type."""
    cdef Out out
    out.data = NULL
    out.size = 0
    out.room = 0
    try:
        put_attributes(&out, attributes, 1)
        return PyBytes_FromStringAndSize(out.data, out.size) if out.size else b""
    finally:
        PyMem_Free(out.data)


def parse_messages(bytes data not None):
    """Split one datagram into its messages; NetlinkInvalid for a length below 16 or past the end, or bytes left over."""
    cdef const char *start = PyBytes_AS_STRING(data)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t at = 0
    cdef MessageHeader header
    cdef list found = []
    if end > DATAGRAM_MAX:
        raise NetlinkInvalid(f"netlink: a datagram of {end} bytes is above {DATAGRAM_MAX}")
    while at < end:
        if end - at < <Py_ssize_t>sizeof(header):
            raise NetlinkInvalid(f"netlink: {end - at} bytes left at {at}, too few for a header")
        memcpy(&header, start + at, sizeof(header))
        if header.length < sizeof(header) or <Py_ssize_t>header.length > end - at:
            raise NetlinkInvalid(f"netlink: message length {header.length} at {at} with {end - at} bytes left")
        found.append(Message(header.type, header.flags, header.sequence, header.port, PyBytes_FromStringAndSize(
            start + at + sizeof(header), <Py_ssize_t>header.length - <Py_ssize_t>sizeof(header))))
        at += <Py_ssize_t>header.length + padding(header.length)
    return found


def unpack_attributes(bytes data not None, offset=0):
    """Split `data` from `offset` into attributes: (type without its two flag bits, value), in order; NetlinkInvalid as `parse_messages`."""
    cdef const char *start = PyBytes_AS_STRING(data)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t at
    cdef AttributeHeader header
    cdef list found = []
    if not 0 <= offset <= end:
        raise NetlinkInvalid(f"netlink: attributes from {offset} of {end} bytes")
    at = offset
    while at < end:
        if end - at < <Py_ssize_t>sizeof(header):
            raise NetlinkInvalid(f"netlink: {end - at} bytes left at {at}, too few for an attribute")
        memcpy(&header, start + at, sizeof(header))
        if header.length < sizeof(header) or <Py_ssize_t>header.length > end - at:
            raise NetlinkInvalid(f"netlink: attribute length {header.length} at {at} with {end - at} bytes left")
        found.append((header.type & TYPE_MASK, PyBytes_FromStringAndSize(
            start + at + sizeof(header), <Py_ssize_t>header.length - <Py_ssize_t>sizeof(header))))
        at += <Py_ssize_t>header.length + padding(header.length)
    return found
