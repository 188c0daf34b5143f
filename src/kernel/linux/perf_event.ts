/** perf_event_open(2), as far as BPF needs it: `struct perf_event_attr` of linux/perf_event.h. */

import { addressOf, systemCall } from '../../ffi/libc.js';
import { Fd } from './bpf.js';

const SYS_PERF_EVENT_OPEN = 298;
const SYS_IOCTL = 16;
const ATTR_BYTES = 136;
const AT = {
  type: 0,
  size: 4,
  config: 8,
  period: 16,
  sampleType: 24,
  wakeup: 48,
  path: 56,
  offset: 64,
} as const;
const FLAG_FD_CLOEXEC = 8n;
const IOC_ENABLE = 0x2400;

export interface PerfEvent {
  /** Of the event source: `PERF_TYPE_…`, or what its folder in /sys says. */
  readonly type: number;
  readonly config: bigint;
  /** `PERF_SAMPLE_…` */
  readonly sampleType?: bigint;
  /** Events until a reader is woken. */
  readonly wakeup?: number;
  /** Of a uprobe: its file and the offset in it. */
  readonly path?: string;
  readonly offset?: bigint;
}

/** Opens an event of a process (`pid`) or a CPU (`pid` -1). */
export function perfEventOpen(event: PerfEvent, pid: number, cpu: number): Fd {
  const attr = Buffer.alloc(ATTR_BYTES);
  const path = Buffer.from(`${event.path ?? ''}\0`);
  attr.writeUInt32LE(event.type, AT.type);
  attr.writeUInt32LE(ATTR_BYTES, AT.size);
  attr.writeBigUInt64LE(event.config, AT.config);
  attr.writeBigUInt64LE(1n, AT.period);
  attr.writeBigUInt64LE(event.sampleType ?? 0n, AT.sampleType);
  attr.writeUInt32LE(event.wakeup ?? 0, AT.wakeup);
  if (event.path !== undefined) attr.writeBigUInt64LE(addressOf(path), AT.path);
  attr.writeBigUInt64LE(event.offset ?? 0n, AT.offset);
  return new Fd(
    Number(
      systemCall('perf_event_open', SYS_PERF_EVENT_OPEN, addressOf(attr), pid, cpu, -1, FLAG_FD_CLOEXEC),
    ),
  );
}

export function enableEvent(fd: Fd): void {
  systemCall('ioctl(PERF_EVENT_IOC_ENABLE)', SYS_IOCTL, fd.number, IOC_ENABLE, 0);
}
