/** Where things are in the project, for the tests: fixed places, nothing computed from the machine. */

import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder that holds package.json. */
export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
/** The command under test. */
export const MULTITRACE = join(ROOT, 'bin', 'multitrace');
/** Sources of the programs that are traced. */
export const TARGETS = join(ROOT, 'tests', 'targets');
/** Compiled targets, kept between runs. */
export const BUILT_TARGETS = join(ROOT, 'build', 'targets');
