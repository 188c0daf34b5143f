/**
 * The messages between the test and the guest's agent, used by both: a JSON value and bytes, behind a header of two
 * little-endian 32-bit lengths.
 */

const HEADER_BYTES = 8;
const NOTHING = new Uint8Array(0);

/** What the test asks. Each is answered by one `Answer` with its `id`. */
export type Request = { readonly id: number } & (
  | {
      readonly op: 'spawn';
      readonly argv: readonly string[];
      readonly env?: Readonly<Record<string, string>>;
      readonly cwd?: string;
    }
  /** The message's bytes go to the process's standard input. */
  | { readonly op: 'write'; readonly pid: number; readonly end: boolean }
  /** A signal to the process alone, or to its whole group. */
  | { readonly op: 'kill'; readonly pid: number; readonly signal: string; readonly group: boolean }
  /** The message's bytes become the file. */
  | { readonly op: 'put'; readonly path: string; readonly mode: number }
  /** Answered with the file's bytes. */
  | { readonly op: 'get'; readonly path: string }
);

/** What the agent says: once when it is ready, the answer to a request, and what spawned processes do. */
export type Message =
  | { readonly kind: 'ready' }
  | { readonly kind: 'answer'; readonly id: number; readonly pid?: number; readonly error?: string }
  /** The message's bytes are output. */
  | { readonly kind: 'output'; readonly pid: number; readonly stream: 'stdout' | 'stderr' }
  /** After all of its output. */
  | {
      readonly kind: 'end';
      readonly pid: number;
      readonly status: number | null;
      readonly signal: string | null;
    };

export function encodeFrame(value: Request | Message, bytes: Uint8Array = NOTHING): Buffer {
  const json = Buffer.from(JSON.stringify(value));
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(json.length, 0);
  header.writeUInt32LE(bytes.length, 4);
  return Buffer.concat([header, json, bytes]);
}

/** Cuts a stream of bytes into frames. */
export class FrameReader {
  private chunks: Buffer[] = [];
  private held = 0;
  private wanted = HEADER_BYTES;

  constructor(private readonly take: (value: unknown, bytes: Buffer) => void) {}

  push(chunk: Buffer): void {
    this.chunks.push(chunk);
    this.held += chunk.length;
    while (this.held >= this.wanted) {
      const all = this.chunks.length === 1 ? this.chunks[0] : Buffer.concat(this.chunks);
      const jsonLength = all.readUInt32LE(0);
      this.wanted = HEADER_BYTES + jsonLength + all.readUInt32LE(4);
      this.chunks = [all];
      if (all.length < this.wanted) return;
      const body = HEADER_BYTES + jsonLength;
      const value: unknown = JSON.parse(all.toString('utf8', HEADER_BYTES, body));
      this.take(value, all.subarray(body, this.wanted));
      const rest = all.subarray(this.wanted);
      this.chunks = rest.length === 0 ? [] : [rest];
      this.held = rest.length;
      this.wanted = HEADER_BYTES;
    }
  }
}
