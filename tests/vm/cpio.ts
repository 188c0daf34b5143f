/**
 * Writes archives of cpio's "newc" format, which the kernel unpacks as its first root file system
 * (Documentation/driver-api/early-userspace/buffer-format.rst).
 */

const REGULAR = 0o100000;
const FOLDER = 0o040000;
const SYMLINK = 0o120000;
const CHARACTER_DEVICE = 0o020000;

/** One archive, put together in memory as pieces: file contents are not copied. */
export class CpioArchive {
  readonly pieces: Uint8Array[] = [];
  private inode = 0;
  private readonly folders = new Set(['']);

  file(path: string, content: Uint8Array, mode = 0o644): void {
    this.entry(path, REGULAR | mode, content);
  }

  symlink(path: string, target: string): void {
    this.entry(path, SYMLINK | 0o777, Buffer.from(target));
  }

  characterDevice(path: string, major: number, minor: number): void {
    this.entry(path, CHARACTER_DEVICE | 0o600, new Uint8Array(0), [major, minor]);
  }

  /** A folder and those above it, each once. */
  folder(path: string): void {
    const name = relative(path);
    if (this.folders.has(name)) return;
    this.folders.add(name);
    this.entry(path, FOLDER | 0o755, new Uint8Array(0));
  }

  /** The last entry; nothing may follow. */
  end(): void {
    this.write('TRAILER!!!', 0, new Uint8Array(0), [0, 0]);
  }

  private entry(path: string, mode: number, content: Uint8Array, device: [number, number] = [0, 0]): void {
    const name = relative(path);
    const slash = name.lastIndexOf('/');
    if (slash > 0) this.folder(name.slice(0, slash));
    this.write(name, mode, content, device);
  }

  private write(name: string, mode: number, content: Uint8Array, [major, minor]: [number, number]): void {
    const nameBytes = Buffer.byteLength(name) + 1;
    const owner = 0;
    const links = 1;
    const changed = 0;
    const heldOn = 0;
    const check = 0;
    const fields = [
      ...[this.inode++, mode, owner, owner, links, changed, content.length],
      ...[heldOn, heldOn, major, minor, nameBytes, check],
    ];
    const hex = fields.map(field => field.toString(16).padStart(8, '0')).join('');
    const head = `070701${hex}${name}\0`;
    this.pieces.push(Buffer.from(head + padding(Buffer.byteLength(head))));
    this.pieces.push(content, Buffer.from(padding(content.length)));
  }
}

/** Names stand without the leading slash. */
function relative(path: string): string {
  return path.replace(/^\/+/, '');
}

/** Headers and contents begin at multiples of four bytes. */
function padding(length: number): string {
  return '\0'.repeat(-length & 3);
}
