/** What the tools' programs tell the kernel, which has helpers for programs that are compatible with the GPL alone. */
export const LICENSE = 'Dual MIT/GPL';
