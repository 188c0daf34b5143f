/**
 * Rows measured in rounds, each round in random order, so that what the machine does meanwhile hits all of them alike.
 * Every round has a process of its own: where its code and memory lie moves results by more than what is looked for.
 */

import { BpfError } from '../kernel/errno.js';
import { OurMachine } from './our_machine.js';
import { type Attached, NotHere, type Result, type Round, type Row } from './row.js';
import type { Random } from './statistics.js';
import type { Run, TracedProgram } from './target.js';

/** What the whole measurement is made with. */
export interface RoundsSetup {
  readonly program: TracedProgram;
  /** Loaded into every process. */
  readonly libraries: readonly string[];
  readonly random: Random;
  readonly producers: number;
  /** For each row, over all rounds. */
  readonly seconds: number;
  readonly say: (text: string) => void;
  /** Ctrl-C: what was measured so far is what there is. */
  readonly stopped: () => boolean;
}

const MOST_ROUNDS = 15;
const FEWEST_ROUNDS = 3;
const FIRST_CALLS = 64;
/** An eighth of the calls warm up. */
const FEWEST_CALLS = 8;
/** A first guess is made better until it takes this share of a sample. */
const GOOD_GUESS = 0.1;

const MOST_RUNS = 20;

/** How many rounds `seconds` are spread over. */
export function roundsFor(seconds: number): number {
  return Math.max(FEWEST_ROUNDS, Math.min(MOST_ROUNDS, Math.ceil(seconds * 10)));
}

class RowState {
  readonly samples = new Map<number, number>();
  unavailable: string | undefined;
  functions: number | undefined;
  /** Calls of a sample for each thread, once it is known how long one takes. */
  calls = 0;

  constructor(readonly row: Row) {}
}

/** Measures the rows. Throws EIO where a row counted other than what was called: then no number is to be believed. */
export async function measure(rows: readonly Row[], setup: RoundsSetup): Promise<Result[]> {
  if (rows.length === 0) return [];
  const states = rows.map(row => new RowState(row));
  const rounds = roundsFor(setup.seconds);
  for (let number = 0; number < rounds && !setup.stopped(); number++) {
    const now = setup.random
      .shuffled(states)
      .filter(({ row, unavailable }) => unavailable === undefined && number < (row.rounds ?? rounds));
    const target = await setup.program.start(setup.libraries);
    const ours = new OurMachine(target.pid);
    try {
      for (const state of now) {
        if (setup.stopped()) break;
        setup.say(`round ${number + 1} of ${rounds}: ${state.row.name}`);
        await sample(state, number, { program: setup.program, target, ours }, setup, rounds);
      }
    } finally {
      ours.close();
      await target.end();
    }
  }
  return states.map(({ row: { name, what, group }, samples, functions, unavailable }) => ({
    name,
    what,
    group,
    samples,
    ...(functions === undefined ? {} : { functions }),
    ...(unavailable === undefined ? {} : { unavailable }),
  }));
}

async function sample(
  state: RowState,
  number: number,
  round: Round,
  setup: RoundsSetup,
  rounds: number,
): Promise<void> {
  const { row } = state;
  let attached: Attached;
  try {
    attached = await row.attach(round);
  } catch (cause) {
    if (!(cause instanceof NotHere)) throw cause;
    state.unavailable = cause.message;
    return;
  }
  state.functions = attached.functions;
  const threads = row.threads ?? setup.producers;
  const sampleNs = (setup.seconds / Math.min(rounds, row.rounds ?? rounds)) * 1e9;
  const runs: Run[] = [];
  const run = async (calls: number): Promise<Run> => {
    const done = await (attached.target ?? round.target).run(row.calls, threads, calls);
    runs.push(done);
    attached.between?.();
    return done;
  };
  // One thread's time is that of the processor, so that others on the machine are not in it.
  const timeOf = ({ ns, processorNs }: Run): number => (threads > 1 || row.byClock ? ns : processorNs);
  const timed = async (calls: number): Promise<number> => timeOf(await run(calls));
  try {
    try {
      if (state.calls === 0) state.calls = await guessCalls(timed, sampleNs, row.mostCalls);
      const { calls } = state;
      let ns = await timed(calls);
      let times = 1;
      // One run is short where it must not fill a buffer.
      if (attached.between !== undefined)
        for (; ns < sampleNs && times < MOST_RUNS; times++) ns += await timed(calls);
      state.samples.set(number, ns / (times * calls * threads * (row.operations ?? 1)));
      state.calls = callsFor(sampleNs, (times * calls) / ns, row.mostCalls);
    } finally {
      await attached.detach();
    }
    await verify(row, attached, runs);
  } catch (cause) {
    // A peer that fails or loses events is no failure of ours, but its number says nothing.
    if (row.group !== 'peer') throw cause;
    state.samples.clear();
    state.unavailable = (cause as Error).message;
  }
}

/** Finds out how many calls take about `sampleNs`. */
async function guessCalls(
  timed: (calls: number) => Promise<number>,
  sampleNs: number,
  most = Number.MAX_SAFE_INTEGER,
): Promise<number> {
  for (let calls = FIRST_CALLS; ; calls *= 8) {
    const ns = await timed(Math.min(calls, most));
    if (ns < sampleNs * GOOD_GUESS && calls < most) continue;
    return callsFor(sampleNs, calls / Math.max(ns, 1), most);
  }
}

function callsFor(sampleNs: number, callsPerNs: number, most = Number.MAX_SAFE_INTEGER): number {
  return Math.max(FEWEST_CALLS, Math.min(most, Math.round(sampleNs * callsPerNs)));
}

/** The calls were made, and each was seen. */
async function verify(row: Row, attached: Attached, runs: readonly Run[]): Promise<void> {
  const made = runs.reduce((sum, run) => sum + run.made, 0);
  const returned = runs.reduce((sum, run) => sum + run.sum, 0);
  const wanted = row.returns ?? 1;
  if (wanted === -1 ? returned <= 0 || returned % made !== 0 : returned !== wanted * made)
    throw new BpfError(
      'EIO',
      `${row.name}: ${made} calls returned ${returned} in all: the calls were not made, and the benchmark is not valid`,
    );
  const counted = await attached.count?.();
  const events = made * (row.eventsPerCall ?? 1);
  if (counted !== undefined && counted !== events)
    throw new BpfError('EIO', `${row.name} saw ${counted} of ${events} events: the benchmark is not valid`);
}
