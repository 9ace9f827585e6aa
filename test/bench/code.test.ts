/** What is read off a compiler's report: statistics, and the loop in which the work is. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { heaviestLoop, parseCode } from '../../bench/code.ts';

const assembly = `BB0:
	s_load_b128 s[8:11], s[2:3], 0x40                           ; f4040201 f8000040
	v_mov_b32_e32 v2, 0                                         ; 7e040280
BB1:
	buffer_load_b128 v[28:31], v29, s[12:15], 0 offen           ; e05c0000 8043 1c1d
	s_waitcnt vmcnt(1)                                          ; bf8907f7
	s_barrier                                                   ; bfbd0000
BB2:
	ds_load_b128 v[44:47], v40 offset:10240                     ; dbfc2800
	s_waitcnt lgkmcnt(0)                                        ; bf89fc07
	v_fmac_f32_e32 v8, v24, v44                                 ; 5610
	s_delay_alu instid0(VALU_DEP_4)                             ; bf870004
	v_fma_f32 v1, 2.0, v1, 1.0                                  ; d6130001
	v_cndmask_b32_e64 v40, v28, 0, vcc                          ; d501
	s_waitcnt vmcnt(0)                                          ; bf8903f7
	s_cbranch_scc1 BB4                                          ; bfa20001
	s_branch BB1                                                ; bfa0ffff
BB4:
	v_add_nc_u32_e32 v5, s24, v4                                ; 4a0a0818
	s_cbranch_vccnz BB4                                         ; bfa4fffd
	buffer_store_b128 v[8:11], v0, s[16:19], 0 offen            ; e074
	s_endpgm                                                    ; bfb00000`;

test('the loop with the most multiply-adds, by kind; branches forwards make none', () => {
  assert.equal(heaviestLoop(assembly), {
    all: 8,
    multiplyAdds: 2,
    matrices: 0,
    vector: 1,
    scalar: 2,
    loads: 1,
    stores: 0,
    shared: 1,
    barriers: 1,
    waits: 1,
  });
  assert.is(heaviestLoop('BB0:\n\ts_endpgm ; bfb00000'), null);
});

test('a report of two kernels', () => {
  const statistics = [
    'VGPRs = 96',
    'Spilled VGPRs = 1',
    'Spilled SGPRs = 2',
    'LDS size = 512',
    'Subgroups per SIMD = 14',
  ];
  const part = (name: string, text: string) =>
    `@ kernel ${name}\n${[...statistics, 'Code size = 76'].map((s) => `@ statistic ${s}\n`).join('')}@ code\n${text}\n\n`;
  const [first, second] = parseCode(part('a[T=f32]', assembly) + part('b', 'BB0:\n\ts_endpgm'));
  assert.is(first?.kernel, 'a[T=f32]');
  assert.equal(
    [first?.registers, first?.spilled, first?.workgroupMemory, first?.subgroups, first?.size],
    [96, 3, 512, 14, 76],
  );
  assert.is(first?.text, assembly);
  assert.is(second?.loop, null);
  assert.throws(() => parseCode('@ kernel a\n@ code\n'), /does not tell VGPRs/);
});

test.run();
