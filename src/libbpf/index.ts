/** libbpf's names and life cycle in TypeScript: what the package exports of it. */

export type { BtfValue } from './codec.js';
export type { GlobalSection, GlobalValues, GlobalVariable } from './globals.js';
export type { LinkedProgram } from './link.js';
export type { InitialValue, MapSpec } from './map_spec.js';
export type { BtfFunctionId, MultiTargets } from './multi_targets.js';
export { BpfObject, type LoadOptions, type ObjectSnapshot } from './object.js';
export { ObjectMap } from './object_map.js';
export {
  type AttachMultiOptions,
  type AttachOptions,
  ObjectProgram,
  type ProgramSpec,
} from './object_program.js';
export { defaultPinDirectory, Pins } from './pins.js';
export { RingBuffer } from './ring_buffer.js';
export { parseSectionName, type SectionName } from './section_name.js';
export { type TypedEntry, TypedMap } from './typed_map.js';
