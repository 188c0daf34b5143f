import { expect, test } from 'vitest';
import { denied } from './deny_list.js';

const none = () => false;

test.each([
  ['__restore_rt', '__restore_mask'],
  ['EVP_DigestInit.cold', 'EVP_DigestInit.coldness'],
  ['luaV_execute.cold.3', 'luaV_execute.part.3'],
  ['f.cold.lto_priv.0', 'f.lto_priv.0'],
  ['main.__part.1', 'main.part.1'],
  ['_start', '_start_cycle'],
  ['_dl_runtime_resolve_xsavec', '_dl_fixup'],
  ['__syscall_cp_asm', '__syscall_cp'],
  ['__morestack', '__morestack_load_mmap'],
  ['SafeFetch32_impl', 'SafeFetcher'],
  ['TcmallocSlab_Internal_Pop', 'TcmallocTest'],
])('%s is denied, %s is not', (name, twin) => {
  expect(denied(name, none)).toMatch(/\w/);
  expect(denied(twin, none)).toBeUndefined();
});

test('V8’s builtins are denied where the module embeds V8, and only there', () => {
  const v8 = (symbol: string) => symbol === 'v8_Default_embedded_blob_code_';
  expect(denied('Builtins_ArrayMap', v8)).toMatch(/copies/);
  expect(denied('Builtins_ArrayMap', none)).toBeUndefined();
  expect(denied('napi_create_object', v8)).toBeUndefined();
});

test('a FIPS module that checks its own code is left alone entirely', () => {
  const fips = (symbol: string) => symbol === 'BORINGSSL_bcm_text_start';
  expect(denied('SHA256_Update', fips)).toMatch(/checks the bytes/);
  expect(denied('SHA256_Update', none)).toBeUndefined();
});
