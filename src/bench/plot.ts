/** The benchmark as a picture (SVG): what one event takes, and what attaching takes, both on logarithmic scales. */

import { type AttachResult, COUNTS, WAYS, type Way } from './attach.js';
import { machineLine } from './machine_line.js';
import type { Result } from './row.js';
import { median } from './statistics.js';
import type { Measured } from './suite.js';

const WIDTH = 960;
const MARGIN = 24;
const NAMES = 190;
const VALUES = 90;
const BAR = 13;
const STEP = 20;
const CHART = 300;

const COLOURS = { baseline: '#8b929c', ours: '#2563eb', limit: '#15803d', peer: '#d97706' } as const;
type Drawn = keyof typeof COLOURS;
const KEY: Readonly<Record<Drawn, string>> = {
  baseline: 'baselines',
  ours: 'multitrace',
  limit: 'hooks written by hand',
  peer: 'peers',
};
const LINES: Readonly<Record<Way, string>> = {
  multi: '#2563eb',
  plain: '#7c3aed',
  'uprobe-multi': '#d97706',
  uprobe: '#b91c1c',
};

const escaped = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

function text(x: number, y: number, words: string, more = ''): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${more}>${escaped(words)}</text>\n`;
}

function line(x1: number, y1: number, x2: number, y2: number, colour: string): string {
  return `<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" stroke="${colour}"/>\n`;
}

/** A logarithmic scale over the values, from one power of ten to another. */
function scale(values: readonly number[], from: number, to: number) {
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
  return {
    at: (value: number): number => from + ((Math.log10(value) - low) / (high - low)) * (to - from),
    ticks: Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i)),
  };
}

/** A time, from ns. */
function timeName(ns: number): string {
  const [unit, by] = ns < 1000 ? ['ns', 1] : ns < 1e6 ? ['µs', 1e3] : ns < 1e9 ? ['ms', 1e6] : ['s', 1e9];
  return `${Number((ns / Number(by)).toPrecision(3))} ${unit}`;
}

function isDrawn(result: Result): result is Result & { readonly group: Drawn } {
  return result.group in COLOURS && result.samples.size > 0 && result.unavailable === undefined;
}

/** Bars for what one event takes; the picture and its height. */
function bars(timed: readonly Result[], top: number): { svg: string; height: number } {
  const rows = timed.filter(isDrawn);
  if (rows.length === 0) return { svg: '', height: 0 };
  const medians = rows.map(({ samples }) => median([...samples.values()]));
  const left = MARGIN + NAMES;
  const right = WIDTH - MARGIN - VALUES;
  const { at, ticks } = scale(medians, left, right);
  const first = top + 56;
  const bottom = first + rows.length * STEP;
  let svg = text(MARGIN, top + 16, 'Time of one event', 'class="title"');
  let x = MARGIN;
  for (const group of Object.keys(COLOURS) as Drawn[]) {
    if (!rows.some(one => one.group === group)) continue;
    svg += `<rect x="${x}" y="${top + 26}" width="11" height="11" fill="${COLOURS[group]}"/>\n`;
    svg += text(x + 16, top + 36, KEY[group]);
    x += 32 + KEY[group].length * 7;
  }
  for (const tick of ticks) {
    svg += line(at(tick), first - 6, at(tick), bottom, '#e3e6ea');
    svg += text(at(tick), bottom + 16, timeName(tick), 'text-anchor="middle" class="scale"');
  }
  for (const [i, { name, group, samples }] of rows.entries()) {
    const y = first + i * STEP;
    const values = [...samples.values()].sort((a, b) => a - b);
    const [low, high] = [0.25, 0.75].map(q => values[Math.round(q * (values.length - 1))]);
    const middle = y + BAR / 2;
    svg += text(left - 8, y + 11, name, 'text-anchor="end"');
    svg += `<rect x="${left}" y="${y}" width="${(at(medians[i]) - left).toFixed(1)}" height="${BAR}" fill="${COLOURS[group]}"/>\n`;
    svg += line(at(low), middle, at(high), middle, '#111');
    svg += text(Math.max(at(medians[i]), at(high)) + 6, y + 11, timeName(medians[i]));
  }
  return { svg, height: bottom + 28 - top };
}

/** Lines for what attaching takes; the picture and its height. */
function curves(attaching: readonly AttachResult[], top: number): { svg: string; height: number } {
  const points = attaching
    .filter(({ samples, unavailable }) => samples.size > 0 && unavailable === undefined)
    .map(({ way, functions, samples }) => ({
      way,
      functions,
      ns: median([...samples.values()].map(({ attachMs }) => attachMs)) * 1e6,
    }));
  if (points.length === 0) return { svg: '', height: 0 };
  const left = MARGIN + 64;
  const right = WIDTH - MARGIN - 260;
  const first = top + 34;
  const bottom = first + CHART;
  const across = scale(COUNTS, left, right);
  const up = scale(
    points.map(({ ns }) => ns),
    bottom,
    first,
  );
  let svg = text(MARGIN, top + 16, 'Time to attach, by the number of functions', 'class="title"');
  for (const tick of up.ticks) {
    svg += line(left, up.at(tick), right, up.at(tick), '#e3e6ea');
    svg += text(left - 8, up.at(tick) + 4, timeName(tick), 'text-anchor="end" class="scale"');
  }
  for (const tick of across.ticks) {
    svg += line(across.at(tick), first, across.at(tick), bottom, '#e3e6ea');
    svg += text(
      across.at(tick),
      bottom + 16,
      tick.toLocaleString('en-US'),
      'text-anchor="middle" class="scale"',
    );
  }
  let labels: { y: number; way: Way }[] = [];
  for (const way of Object.keys(WAYS) as Way[]) {
    const own = points.filter(point => point.way === way);
    if (own.length === 0) continue;
    const path = own.map(({ functions, ns }) => `${across.at(functions).toFixed(1)},${up.at(ns).toFixed(1)}`);
    svg += `<polyline points="${path.join(' ')}" fill="none" stroke="${LINES[way]}" stroke-width="2"/>\n`;
    for (const point of path) {
      const [x, y] = point.split(',');
      svg += `<circle cx="${x}" cy="${y}" r="3.5" fill="${LINES[way]}"/>\n`;
    }
    labels.push({ y: up.at(own[own.length - 1].ns), way });
  }
  // Labels stand at the right in the order of the lines' ends, one below the other.
  labels = labels.sort((a, b) => a.y - b.y);
  let free = first;
  for (const { y, way } of labels) {
    const place = Math.max(free, y);
    svg += text(right + 14, place + 4, WAYS[way], `style="fill:${LINES[way]}"`);
    free = place + 18;
  }
  return { svg, height: bottom + 28 - top };
}

/** The whole picture. */
export function plot({ timed, attaching }: Measured): string {
  const head = 46;
  const upper = bars(timed, head);
  const lower = curves(attaching, head + upper.height + (upper.height > 0 ? 16 : 0));
  const height = head + upper.height + lower.height + 32;
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height.toFixed(0)}" viewBox="0 0 ${WIDTH} ${height.toFixed(0)}">\n` +
    '<title>multitrace bench: time of one event, and time to attach</title>\n' +
    '<style>text{font:12px system-ui,"DejaVu Sans",sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}' +
    '.scale,.machine{font-size:11px;fill:#656d76}</style>\n' +
    `<rect width="${WIDTH}" height="${height.toFixed(0)}" fill="#fff"/>\n` +
    text(MARGIN, 28, `multitrace bench: ${machineLine()}`, 'class="machine"') +
    upper.svg +
    lower.svg +
    '</svg>\n'
  );
}
