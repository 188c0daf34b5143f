/**
 * What a type of BTF is, one interface for each kind, and the numbers of the format (linux/btf.h; Linux
 * documentation, "BPF Type Format"). Sizes are bytes and offsets of members are bits, as in the format; a type id of 0
 * is void.
 */

/** Kinds by their numbers in the format. */
export const KINDS = [
  'void',
  'int',
  'ptr',
  'array',
  'struct',
  'union',
  'enum',
  'fwd',
  'typedef',
  'volatile',
  'const',
  'restrict',
  'func',
  'func_proto',
  'var',
  'datasec',
  'float',
  'decl_tag',
  'type_tag',
  'enum64',
] as const;

export type BtfKind = (typeof KINDS)[number];

/** BTF_KIND_… of linux/btf.h. */
export const KIND = {
  VOID: 0,
  INT: 1,
  PTR: 2,
  ARRAY: 3,
  STRUCT: 4,
  UNION: 5,
  ENUM: 6,
  FWD: 7,
  TYPEDEF: 8,
  VOLATILE: 9,
  CONST: 10,
  RESTRICT: 11,
  FUNC: 12,
  FUNC_PROTO: 13,
  VAR: 14,
  DATASEC: 15,
  FLOAT: 16,
  DECL_TAG: 17,
  TYPE_TAG: 18,
  ENUM64: 19,
} as const;

/** First two bytes of the header, little-endian. */
export const BTF_MAGIC = 0xeb9f;
export const BTF_VERSION = 1;
/** Bytes of `struct btf_header`, and of the fixed part of a type. */
export const HEADER_SIZE = 24;
/** Ids and offsets of names that the format can have (BTF_MAX_TYPE, BTF_MAX_NAME_OFFSET). */
export const MAX_TYPE_ID = 0x000f_ffff;
export const MAX_NAME_OFFSET = 0x00ff_ffff;
/** Bytes of a pointer on the machines that are traced. */
export const POINTER_SIZE = 8;

/** Bits of an int's encoding. */
export const INT_ENCODING = { SIGNED: 1, CHAR: 2, BOOL: 4 } as const;

/** What functions and variables are linked as, by number. */
export const LINKAGES = ['static', 'global', 'extern'] as const;
export type BtfLinkage = (typeof LINKAGES)[number];

export interface BtfVoid {
  readonly kind: 'void';
  readonly name?: undefined;
}

export interface BtfInt {
  readonly kind: 'int';
  readonly name?: string;
  readonly size: number;
  /** How many of its bits are the value, and where they begin. */
  readonly bits: number;
  readonly offset: number;
  readonly encoding: { readonly signed: boolean; readonly char: boolean; readonly bool: boolean };
}

export interface BtfPtr {
  readonly kind: 'ptr';
  readonly name?: undefined;
  readonly type: number;
}

export interface BtfArray {
  readonly kind: 'array';
  readonly name?: undefined;
  readonly type: number;
  readonly indexType: number;
  readonly nelems: number;
}

export interface BtfMember {
  /** Empty for an anonymous one. */
  readonly name: string;
  readonly type: number;
  readonly bitOffset: number;
  /** 0 where it is no bitfield. */
  readonly bitSize: number;
}

export interface BtfComposite {
  readonly kind: 'struct' | 'union';
  readonly name?: string;
  readonly size: number;
  readonly members: readonly BtfMember[];
}

export interface BtfEnumValue {
  readonly name: string;
  readonly value: bigint;
}

export interface BtfEnum {
  readonly kind: 'enum' | 'enum64';
  readonly name?: string;
  readonly size: number;
  readonly signed: boolean;
  readonly values: readonly BtfEnumValue[];
}

export interface BtfFwd {
  readonly kind: 'fwd';
  readonly name?: string;
  readonly of: 'struct' | 'union';
}

/** A name for another type, a qualifier, or a tag before one. */
export interface BtfModifier {
  readonly kind: 'typedef' | 'volatile' | 'const' | 'restrict' | 'type_tag';
  readonly name?: string;
  readonly type: number;
}

export interface BtfFunc {
  readonly kind: 'func';
  readonly name?: string;
  /** Its prototype. */
  readonly type: number;
  readonly linkage: BtfLinkage;
}

export interface BtfParam {
  readonly name: string;
  /** 0 for the last one: `...`. */
  readonly type: number;
}

export interface BtfFuncProto {
  readonly kind: 'func_proto';
  readonly name?: undefined;
  readonly returnType: number;
  readonly params: readonly BtfParam[];
}

export interface BtfVar {
  readonly kind: 'var';
  readonly name?: string;
  readonly type: number;
  readonly linkage: BtfLinkage;
}

export interface BtfSectionVar {
  readonly type: number;
  readonly offset: number;
  readonly size: number;
}

export interface BtfDatasec {
  readonly kind: 'datasec';
  readonly name?: string;
  /** 0 in an object that was not linked: the section's header knows it. */
  readonly size: number;
  readonly vars: readonly BtfSectionVar[];
}

export interface BtfFloat {
  readonly kind: 'float';
  readonly name?: string;
  readonly size: number;
}

export interface BtfDeclTag {
  readonly kind: 'decl_tag';
  /** The tag; `tag` is the same. */
  readonly name?: string;
  readonly tag: string;
  readonly type: number;
  /** Index of the member or parameter that is tagged; -1: the declaration itself. */
  readonly component: number;
}

export type BtfType =
  | BtfVoid
  | BtfInt
  | BtfPtr
  | BtfArray
  | BtfComposite
  | BtfEnum
  | BtfFwd
  | BtfModifier
  | BtfFunc
  | BtfFuncProto
  | BtfVar
  | BtfDatasec
  | BtfFloat
  | BtfDeclTag;

/** `info` of a type: kind in bits 24 to 28, a flag in bit 31, a count in the low 16. */
export function kindOfInfo(info: number): number {
  return (info >>> 24) & 0x1f;
}

export function countOfInfo(info: number): number {
  return info & 0xffff;
}

export function flagOfInfo(info: number): boolean {
  return info >>> 31 === 1;
}

/** Bits of `info` that mean something. */
export const INFO_MASK = 0x9f00_ffff;

/** Words of 32 bits that a type takes: three, and what follows them by kind; -1 for a kind that is not known. */
export function wordsOfType(info: number): number {
  const count = info & 0xffff;
  switch (kindOfInfo(info)) {
    case KIND.INT:
    case KIND.VAR:
    case KIND.DECL_TAG:
      return 4;
    case KIND.ARRAY:
      return 6;
    case KIND.STRUCT:
    case KIND.UNION:
    case KIND.DATASEC:
    case KIND.ENUM64:
      return 3 + 3 * count;
    case KIND.ENUM:
    case KIND.FUNC_PROTO:
      return 3 + 2 * count;
    case KIND.PTR:
    case KIND.FWD:
    case KIND.TYPEDEF:
    case KIND.VOLATILE:
    case KIND.CONST:
    case KIND.RESTRICT:
    case KIND.FUNC:
    case KIND.FLOAT:
    case KIND.TYPE_TAG:
      return 3;
    default:
      return -1;
  }
}

/** typedef, volatile, const, restrict, type_tag: kinds that stand before another type and have its size. */
export function isModifierKind(kind: number): boolean {
  return (kind >= KIND.TYPEDEF && kind <= KIND.RESTRICT) || kind === KIND.TYPE_TAG;
}
