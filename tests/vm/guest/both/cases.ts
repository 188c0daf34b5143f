/** All cases that both machines pass. */

import { MULTI_CASES } from './multi_cases.js';
import { PLAIN_CASES } from './plain_cases.js';
import type { Case } from './subject.js';

export const CASES: readonly Case[] = [...PLAIN_CASES, ...MULTI_CASES];
