# For gdb on a process whose functions multitrace traces at their return, or on a core file of one:
#
#     gdb -x share/gdb.py -p PID
#
# While such a function runs, its return address on the stack is that of a return trampoline, where gdb's own unwinding
# ends. The unwinder here looks the original one up in the process's call table
# (src/kernel/process/kfunc_md/call_table.ts), and the frame filter leaves the trampolines out of `bt`. Nothing is
# written to the process.

import re
import struct

import gdb
import gdb.unwinder

# The first words of a data region: open_mark.ts.
MARKS = (0x6D746F70656E0001, 0x6D746F70656E0000)
# call_table.ts and return.ts.
ENTRY_SIZE = 256
CHUNK = 64
FIRST_PLACES = 8
SECOND_PLACES = 56
STEP_FACTOR = 5
GOLDEN = 0x9E3779B9
DEPTH_STEP = 8
DEPTH_SHIFT = 48
MOST_DEPTH = 8
STRIDE = 16
LIVE = 1
U32 = 0xFFFFFFFF


def read_words(address, count):
    bytes = gdb.selected_inferior().read_memory(address, count * 8)
    return struct.unpack("<%dQ" % count, bytes)


class CallTable:
    """Where a process has its call table and its return trampolines."""

    def __init__(self, address, entries, trampoline):
        self.entries = entries
        self.first = address + entries // CHUNK
        self.trampoline = trampoline

    def depth_of(self, address):
        """Which return trampoline an address is; None for any other address."""
        distance = address - self.trampoline
        if distance % STRIDE == 0 and 0 <= distance < MOST_DEPTH * STRIDE:
            return distance // STRIDE
        return None

    def original(self, word, depth):
        """The return address that stood in a stack word."""
        key = word | depth << DEPTH_SHIFT | LIVE
        place = ((word >> 16) * GOLDEN + (word >> 4) + depth * DEPTH_STEP) & U32
        step = 1
        half = self.entries // 2
        for i in range(FIRST_PLACES + SECOND_PLACES):
            index = (place & (half - 1)) + (half if i >= FIRST_PLACES else 0)
            entry = self.first + index * ENTRY_SIZE
            found, original = read_words(entry, 2)
            if found == key:
                return original
            place = (place + step) & U32
            step = step * STEP_FACTOR & U32
        return None


def call_tables():
    """Those of the process; more than one where a multitrace was killed and another one came."""
    try:
        maps = gdb.execute("info proc mappings", to_string=True)
    except gdb.error:
        return []
    tables = []
    for line in maps.splitlines():
        if not re.search(r"memfd:multitrace-\d+", line):
            continue
        try:
            mark, address, entries, trampoline = read_words(int(line.split()[0], 16), 4)
        except gdb.MemoryError:
            continue
        if mark in MARKS and address != 0:
            tables.append(CallTable(address, entries, trampoline))
    return tables


known = None


def forget(event):
    global known
    known = None


def tables():
    global known
    if known is None:
        known = call_tables()
    return known


def table_of(pc):
    for table in tables():
        if table.depth_of(pc) is not None:
            return table
    return None


class Frame:
    def __init__(self, sp, pc):
        self.sp = sp
        self.pc = pc


class ReturnTrampolines(gdb.unwinder.Unwinder):
    def __init__(self):
        super().__init__("multitrace")

    def __call__(self, pending):
        pc = int(pending.read_register("rip")) & 0xFFFFFFFFFFFFFFFF
        table = table_of(pc)
        if table is None:
            return None
        sp = int(pending.read_register("rsp")) & 0xFFFFFFFFFFFFFFFF
        word = sp - 8
        address = pc
        # A tail call's trampoline leads to that of the function that made it.
        while table.depth_of(address) is not None:
            address = table.original(word, table.depth_of(address))
            if address is None:
                return None
        info = pending.create_unwind_info(Frame(gdb.Value(sp), gdb.Value(pc)))
        for register in ("rbx", "rbp", "r12", "r13", "r14", "r15", "rsp"):
            info.add_saved_register(register, pending.read_register(register))
        rip = pending.read_register("rip")
        info.add_saved_register("rip", gdb.Value(address).cast(rip.type))
        return info


class WithoutTrampolines:
    """Leaves the trampolines' frames out of backtraces."""

    name = "multitrace"
    priority = 1000
    enabled = True

    def filter(self, frames):
        return (frame for frame in frames if table_of(frame.inferior_frame().pc()) is None)


gdb.unwinder.register_unwinder(None, ReturnTrampolines(), replace=True)
unfiltered = WithoutTrampolines()
gdb.frame_filters[unfiltered.name] = unfiltered
for happens in (gdb.events.stop, gdb.events.cont, gdb.events.new_objfile, gdb.events.exited):
    happens.connect(forget)
gdb.invalidate_cached_frames()
