/** What a file of helpers in machine code hands back to who emits them. */

import type { Label } from '../../../x86/assembler.js';

/** Entry points of helpers, by the name under which compiled code calls them: `helper_` and the kernel's number. */
export type HelperLabels = Map<`helper_${number}`, Label>;
