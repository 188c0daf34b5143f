/** Libraries that the traced program loads, so that it has as many functions as a real program: those that are here. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';

const FOLDERS = ['/usr/lib/x86_64-linux-gnu', '/lib/x86_64-linux-gnu', '/usr/lib64', '/usr/lib'];
const NAMES = [
  'libcrypto.so.3',
  'libssl.so.3',
  'libsqlite3.so.0',
  'libstdc++.so.6',
  'libm.so.6',
  'libxml2.so.2',
  'libz.so.1',
];

/** Their paths. */
export function librariesHere(): string[] {
  return NAMES.flatMap(name => {
    const found = FOLDERS.map(folder => join(folder, name)).find(existsSync);
    return found === undefined ? [] : [found];
  });
}
