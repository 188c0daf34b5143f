/** File descriptors of the BTF of loaded modules (`BPF_BTF_GET_FD_BY_ID`), which programs for their functions name. */

import { BpfError } from '../errno.js';
import { Attr, Fd, objectInfo, tryBpf } from './bpf.js';

/** Offsets in `struct bpf_btf_info`, and its size. */
const INFO = { name: 16, nameLength: 24, kernel: 28, size: 32 } as const;
const MAX_NAME = 64;

export class ModuleBtfs {
  #fds: Map<string, Fd> | undefined;

  /** Throws ENOENT for a module without types. */
  fd(module: string): number {
    let fd = this.#read().get(module);
    if (fd === undefined) {
      // It may have been loaded since.
      this.close();
      fd = this.#read().get(module);
    }
    if (fd === undefined)
      throw new BpfError('ENOENT', `kernel module ${module} has no types, or is not loaded`);
    return fd.number;
  }

  #read(): Map<string, Fd> {
    if (this.#fds !== undefined) return this.#fds;
    const fds = new Map<string, Fd>();
    this.#fds = fds;
    for (let id = 0; ; ) {
      const next = new Attr().u32(0, id);
      if (tryBpf('BTF_GET_NEXT_ID', next, 'ENOENT') === undefined) return fds;
      id = next.bytes.readUInt32LE(4);
      const opened = tryBpf('BTF_GET_FD_BY_ID', new Attr().u32(0, id), 'ENOENT');
      if (opened === undefined) continue;
      const fd = new Fd(opened);
      const name = moduleName(fd);
      if (name === undefined) fd.close();
      else fds.set(name, fd);
    }
  }

  close(): void {
    for (const fd of this.#fds?.values() ?? []) fd.close();
    this.#fds = undefined;
  }
}

/** `undefined` for types of programs, and the kernel's own. */
function moduleName(fd: Fd): string | undefined {
  const info = Buffer.alloc(INFO.size);
  const text = Buffer.alloc(MAX_NAME);
  const attr = new Attr().pointer(0, text);
  attr.bytes.copy(info, INFO.name, 0, 8);
  info.writeUInt32LE(text.length, INFO.nameLength);
  objectInfo(fd.number, info);
  const end = text.indexOf(0);
  const name = text.toString('latin1', 0, end < 0 ? text.length : end);
  return info.readUInt32LE(INFO.kernel) === 0 || name === 'vmlinux' || name === '' ? undefined : name;
}
