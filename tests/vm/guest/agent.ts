/**
 * What runs in the guest on the tests' behalf: starts and signals processes, passes their output on as it comes,
 * reads and writes files. Its argument is the port that the messages of frames.ts go through.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { encodeFrame, FrameReader, type Message, type Request } from './frames.js';

const port = await open(process.argv[2], constants.O_RDWR);
const processes = new Map<number, ChildProcess>();

/** Frames are written one after the other: each waits until the ones before it are gone. */
let lastWrite: Promise<void> = Promise.resolve();

function say(message: Message, bytes?: Uint8Array): Promise<void> {
  const frame = encodeFrame(message, bytes);
  lastWrite = lastWrite.then(async () => {
    for (let at = 0; at < frame.length; ) at += (await port.write(frame, at)).bytesWritten;
  });
  return lastWrite;
}

function start(request: Request & { op: 'spawn' }): Promise<number> {
  const child = spawn(request.argv[0], request.argv.slice(1), {
    detached: true, // Its own group, so that a timeout ends what it started too.
    cwd: request.cwd ?? '/',
    env: { ...process.env, ...request.env },
  });
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].on('data', (chunk: Buffer) => {
      // A process that prints faster than the port carries waits, as on a pipe.
      child[stream].pause();
      void say({ kind: 'output', pid: child.pid!, stream }, chunk).then(() => child[stream].resume());
    });
  }
  child.stdin.on('error', () => {}); // It may end without reading all of it.
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('spawn', () => {
      processes.set(child.pid!, child);
      resolve(child.pid!);
    });
    child.on('close', (status, signal) => {
      if (child.pid === undefined) return;
      processes.delete(child.pid);
      void say({ kind: 'end', pid: child.pid, status, signal });
    });
  });
}

async function answer(request: Request, bytes: Buffer): Promise<{ pid?: number; bytes?: Buffer }> {
  switch (request.op) {
    case 'spawn':
      return { pid: await start(request) };
    case 'write': {
      const input = processes.get(request.pid)?.stdin;
      if (bytes.length > 0) input?.write(Buffer.from(bytes));
      if (request.end) input?.end();
      return {};
    }
    case 'kill':
      // Only what was started here: the number of a process that has ended may be another's.
      if (processes.has(request.pid))
        process.kill(request.group ? -request.pid : request.pid, request.signal);
      return {};
    case 'put':
      await mkdir(dirname(request.path), { recursive: true });
      await writeFile(request.path, bytes, { mode: request.mode });
      return {};
    case 'get':
      return { bytes: await readFile(request.path) };
  }
}

const reader = new FrameReader((value, bytes) => {
  const request = value as Request;
  answer(request, bytes).then(
    ({ bytes: result, ...rest }) => say({ kind: 'answer', id: request.id, ...rest }, result),
    (error: Error) => say({ kind: 'answer', id: request.id, error: error.message }),
  );
});

void say({ kind: 'ready' });
const buffer = Buffer.alloc(1 << 18);
for (;;) {
  const { bytesRead } = await port.read(buffer, 0, buffer.length);
  if (bytesRead === 0) break; // The test is gone.
  reader.push(Buffer.from(buffer.subarray(0, bytesRead)));
}
