/**
 * speedscope's file format (https://www.speedscope.app/file-format-schema.json): an evented profile for each thread.
 * The file is one object with tables in front, so it is kept in memory until the end.
 */

import type { Tree } from './call_tree.js';
import type { ExportFile, TraceExport } from './export_file.js';
import type { Block, TraceSink } from './selection.js';

interface Profile {
  /** One of its trees. */
  readonly tree: Tree;
  /** For each event: its time, and twice the frame's number, plus one where it closes it. */
  readonly times: number[];
  readonly frames: number[];
  end: number;
}

export class SpeedscopeExport implements TraceSink, TraceExport {
  readonly #file: ExportFile;
  readonly #threadName: (pid: number, tid: number) => string;
  readonly #title: string;
  readonly #frames = new Map<string, number>();
  readonly #names: { name: string; file: string }[] = [];
  readonly #profiles = new Map<string, Profile>();

  constructor(file: ExportFile, threadName: (pid: number, tid: number) => string, title: string) {
    this.#file = file;
    this.#threadName = threadName;
    this.#title = title;
  }

  block({ tree, steps }: Block): void {
    const profile = this.#profile(tree);
    for (const { call, closed } of steps) {
      // What comes later is never earlier.
      profile.end = Math.max(profile.end, closed ? call.end : call.start);
      profile.times.push(profile.end);
      profile.frames.push(this.#frame(call.fn.module, call.fn.name) * 2 + (closed ? 1 : 0));
    }
  }

  finish(): void {
    const profiles = [...this.#profiles.values()];
    let begin = Number.POSITIVE_INFINITY;
    for (const { times } of profiles) begin = Math.min(begin, times[0]);
    const write = (text: string): void => this.#file.write(text);
    write('{"$schema":"https://www.speedscope.app/file-format-schema.json","exporter":"multitrace"');
    write(`,"name":${JSON.stringify(this.#title)},"shared":${JSON.stringify({ frames: this.#names })}`);
    write(',"profiles":[');
    for (const [i, { tree, times, frames, end }] of profiles.entries()) {
      if (i > 0) write(',');
      const name = this.#nameOf(tree);
      write(`\n{"type":"evented","name":${JSON.stringify(name)},"unit":"nanoseconds"`);
      write(`,"startValue":${times[0] - begin},"endValue":${end - begin},"events":[`);
      for (let k = 0; k < times.length; k++) {
        const type = frames[k] % 2 === 0 ? 'O' : 'C';
        write(`${k === 0 ? '' : ','}{"type":"${type}","frame":${frames[k] >> 1},"at":${times[k] - begin}}`);
      }
      write(']}');
    }
    write(']}\n');
    this.#file.close();
  }

  /** At the end names are known best: threads are named after they have begun. */
  #nameOf({ pid, tid, stack }: Tree): string {
    const where = `${tid}${pid === tid ? '' : ` of ${pid}`}${stack === 0 ? '' : `, stack ${stack + 1}`}`;
    return `${this.#threadName(pid, tid)} ${where}`.trim();
  }

  #profile(tree: Tree): Profile {
    const { pid, tid, stack } = tree;
    const key = `${pid} ${tid} ${stack}`;
    let profile = this.#profiles.get(key);
    if (profile === undefined) {
      profile = { tree, times: [], frames: [], end: 0 };
      this.#profiles.set(key, profile);
    }
    return profile;
  }

  #frame(module: string, name: string): number {
    const key = `${module}\0${name}`;
    let frame = this.#frames.get(key);
    if (frame === undefined) {
      frame = this.#names.length;
      this.#frames.set(key, frame);
      this.#names.push({ name, file: module });
    }
    return frame;
  }
}
