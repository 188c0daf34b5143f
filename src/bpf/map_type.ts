/** Map types by number (`enum bpf_map_type` of linux/bpf.h): those that the project creates. */
export const MAP_TYPE = { HASH: 1, ARRAY: 2 } as const;

/** Flags of an update (linux/bpf.h): insert or replace, insert only, replace only. */
export const UPDATE = { ANY: 0n, NOEXIST: 1n, EXIST: 2n } as const;
