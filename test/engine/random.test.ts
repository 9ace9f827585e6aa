import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { kernel } from '../../src/engine/kernel.ts';
import { type Block, keyOf, normalsOf, philox4x32, uniformOf } from '../../src/engine/philox.ts';
import philoxSource from '../../src/engine/philox.wgsl';
import { advance, purposes, randomBits, randomNormal, randomUniform } from '../../src/engine/random.ts';
import { lcg, testDevice } from '../support.ts';

const test = suite('random');

/** Known answers of philox4x32-10 from Random123 1.09 (examples/kat_vectors): counter, key, result. */
const known: [Block, [number, number], Block][] = [
  [
    [0, 0, 0, 0],
    [0, 0],
    [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
  ],
  [
    [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
    [0xffffffff, 0xffffffff],
    [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  ],
  [
    [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
    [0xa4093822, 0x299f31d0],
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  ],
];

test('known answers on the host', () => {
  for (const [counter, key, want] of known) assert.equal(philox4x32(counter, key), want);
});

test('known answers on the device, and 1,000 counters like the host', async () => {
  const device = await testDevice();
  const random = lcg(9);
  const word = () => Math.floor((random() + 1) * 2 ** 31);
  const cases = known.map(([counter, key]) => [...counter, ...key]);
  while (cases.length < 1000) cases.push(Array.from({ length: 6 }, word));
  const k = kernel(
    'philox test',
    `${philoxSource}
    @group(0) @binding(0) var<storage, read> given: array<u32>;
    @group(0) @binding(1) var<storage, read_write> y: array<vec4<u32>>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
      if (id.x >= arrayLength(&y)) { return; }
      let i = 6u * id.x;
      y[id.x] = philox4x32(vec4<u32>(given[i], given[i + 1u], given[i + 2u], given[i + 3u]), vec2<u32>(given[i + 4u], given[i + 5u]));
    }`,
  );
  const y = device.empty([1000, 4], 'u32');
  const given = device.tensor(cases.flat(), [6000], 'u32');
  device.run(k, { given, y }, {}, [16, 1, 1]);
  const got = [...(await y.read())];
  assert.equal(
    got,
    cases.flatMap((c) => philox4x32(c.slice(0, 4) as Block, c.slice(4) as [number, number])),
  );
  y.dispose();
  given.dispose();
});

test('seeds use 53 bits', () => {
  assert.equal(keyOf(2 ** 53 - 1), [0xffffffff, 0x1fffff]);
  assert.equal(keyOf(1234), [1234, 0]);
});

test('normal numbers are those of the host in double, at extreme words too', async () => {
  const device = await testDevice();
  const random = lcg(4);
  const words: number[] = [];
  // Radius at its ends and where ln u is near 0; angles at the borders of quadrants.
  for (const a of [
    0, 1, 255, 256, 0xffffffff, 0xfffffffe, 0xffffff00, 0xfffffeff, 0xff000000, 0x7fffffff, 0x80000000,
    0xb504f300,
  ]) {
    for (const b of [
      0, 0xffffffff, 0x20000000, 0x1fffffff, 0x40000000, 0x3fffffff, 0x60000000, 0x80000000, 0xe0000000,
    ])
      words.push(a, b);
  }
  while (words.length < 40_000) words.push(Math.floor((random() + 1) * 2 ** 31));
  const pairs = words.length / 2;
  const k = kernel(
    'normal test',
    `${philoxSource}
    @group(0) @binding(0) var<storage, read> given: array<vec2<u32>>;
    @group(0) @binding(1) var<storage, read_write> y: array<vec2<f32>>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
      if (id.x < arrayLength(&y)) { y[id.x] = normals_of(given[id.x].x, given[id.x].y); }
    }`,
  );
  const y = device.empty([pairs, 2]);
  const given = device.tensor(words, [words.length], 'u32');
  device.run(k, { given, y }, {}, [Math.ceil(pairs / 64), 1, 1]);
  const got = await y.floats();
  let worst = 0;
  for (let i = 0; i < pairs; i++) {
    const want = normalsOf(words[2 * i]!, words[2 * i + 1]!);
    for (const j of [0, 1]) {
      assert.ok(Number.isFinite(got[2 * i + j]));
      worst = Math.max(worst, Math.abs(got[2 * i + j]! - want[j]!));
    }
  }
  // ln, sqrt, cos and sin are each within 1e-7 relative, and the radius is at most 6.76.
  assert.ok(worst <= 2e-6, `worst difference ${worst}`);
  y.dispose();
  given.dispose();
});

test('elements are philox((element / 4, row, purpose, step), seed)', async () => {
  const device = await testDevice();
  const [seed, purpose, step] = [2 ** 40 + 77, purposes.eot, 9];
  const shape = [3, 2, 5]; // ten numbers a row: the last block is cut
  const rows = device.tensor([7, 100_000, 0xffffffff], [3], 'u32');
  const options = { seed, purpose, step, rows };
  const results = device.scope(() => [
    randomBits(device, shape, options),
    randomUniform(device, shape, options),
    randomNormal(device, shape, options),
  ]);
  const [bits, uniform, normal] = await Promise.all(results.map((t) => t.read()));
  const words = [7, 100_000, 0xffffffff].flatMap((row) =>
    [0, 1, 2].flatMap((block) => philox4x32([block, row, purpose, step], keyOf(seed))).slice(0, 10),
  );
  assert.equal([...bits!], words);
  assert.equal([...uniform!], words.map(uniformOf));
  const blocks = [7, 100_000, 0xffffffff].flatMap((row) =>
    [0, 1, 2]
      .flatMap((block) => {
        const [a, b, c, d] = philox4x32([block, row, purpose, step], keyOf(seed));
        return [...normalsOf(a, b), ...normalsOf(c, d)];
      })
      .slice(0, 10),
  );
  for (const [i, v] of normal!.entries()) assert.ok(Math.abs(v - blocks[i]!) <= 2e-6, `normal ${i}`);
  for (const t of [...results, rows]) t.dispose();
});

test('numbers of an image do not depend on its batch', async () => {
  const device = await testDevice();
  const options = { seed: 5, purpose: purposes.latents };
  const whole = device.scope(() => randomNormal(device, [6, 3, 3, 3], options));
  const all = await whole.floats();
  const rows = device.tensor([4, 2], [2], 'u32');
  const part = device.scope(() => randomNormal(device, [2, 3, 3, 3], { ...options, rows }));
  const two = await part.floats();
  assert.equal(two, new Float32Array([...all.slice(4 * 27, 5 * 27), ...all.slice(2 * 27, 3 * 27)]));
  // More elements an image: the old ones stay.
  const longer = device.scope(() => randomNormal(device, [1, 30], options));
  assert.equal((await longer.floats()).slice(0, 27), all.slice(0, 27));
  for (const t of [whole, rows, part, longer]) t.dispose();
});

test('a replayed program draws fresh numbers from a step on the device', async () => {
  const device = await testDevice();
  const step = device.tensor([3], [1], 'u32');
  const program = device.record('draw', () => {
    const y = randomUniform(device, [2, 6], { seed: 1, purpose: purposes.dropout, step });
    advance(step);
    return y;
  });
  for (let s = 3; s < 6; s++) {
    const got = await program.run().floats();
    const eager = device.scope(() =>
      randomUniform(device, [2, 6], { seed: 1, purpose: purposes.dropout, step: s }),
    );
    assert.equal(got, await eager.floats(), `step ${s}`);
    eager.dispose();
  }
  assert.equal([...(await step.read())], [6]);
  program.dispose();
  step.dispose();
});

test('moments: mean, variance, skewness, kurtosis, correlation, streams', async () => {
  const device = await testDevice();
  const n = 100_000;
  const t = device.scope(() => randomNormal(device, [10, n / 10], { seed: 42, purpose: purposes.latents }));
  const x = await t.floats();
  t.dispose();
  const moment = (p: number) => x.reduce((s, v) => s + v ** p, 0) / n;
  // Each bound is 5 standard errors of the estimate: sqrt(var(x^p) / n).
  const bound = (variance: number) => 5 * Math.sqrt(variance / n);
  assert.ok(Math.abs(moment(1)) < bound(1), `mean ${moment(1)}`);
  assert.ok(Math.abs(moment(2) - 1) < bound(2), `variance ${moment(2)}`);
  assert.ok(Math.abs(moment(3)) < bound(15), `skewness ${moment(3)}`);
  assert.ok(Math.abs(moment(4) - 3) < bound(96), `kurtosis ${moment(4)}`);
  for (const lag of [1, 2, 3, 4, n / 10]) {
    let sum = 0;
    for (let i = 0; i + lag < n; i++) sum += x[i]! * x[i + lag]!;
    assert.ok(Math.abs(sum / n) < bound(1), `lag ${lag}: ${sum / n}`);
  }
  const streams = device.scope(() => [
    randomUniform(device, [1, n], { seed: 42, purpose: 0 }),
    randomUniform(device, [1, n], { seed: 42, purpose: 1 }),
    randomUniform(device, [1, n], { seed: 43, purpose: 0 }),
    randomUniform(device, [1, n], { seed: 42, purpose: 0, step: 1 }),
  ]);
  const hosts = await Promise.all(streams.map((s) => s.floats()));
  for (const u of hosts) {
    assert.ok(u.every((v) => v >= 0 && v < 1));
    assert.ok(Math.abs(u.reduce((s, v) => s + v - 0.5, 0) / n) < bound(1 / 12));
  }
  for (const u of hosts.slice(1)) {
    const covariance = u.reduce((s, v, i) => s + (v - 0.5) * (hosts[0]![i]! - 0.5), 0) / n;
    assert.ok(Math.abs(covariance) < bound(1 / 144), `streams: ${covariance}`);
  }
  for (const s of streams) s.dispose();
});

test('errors name the argument', async () => {
  const device = await testDevice();
  device.scope(() => {
    const options = { seed: 1, purpose: 0 };
    assert.throws(() => randomNormal(device, [], options), /has no first axis/);
    assert.throws(
      () => randomNormal(device, [2], { ...options, seed: -1 }),
      /seed must be an integer in \[0, 2\^53\), got -1/,
    );
    assert.throws(() => randomNormal(device, [2], { ...options, seed: 0.5 }), /got 0.5/);
    assert.throws(() => randomNormal(device, [2], { ...options, purpose: -1 }), /purpose must be a u32/);
    assert.throws(
      () => randomNormal(device, [2], { ...options, step: 1.5 }),
      /step must be a u32 .* got 1.5/,
    );
    assert.throws(
      () => randomNormal(device, [2], { ...options, rows: device.zeros([3], 'u32') }),
      /rows is u32 \[3\], wanted u32 \[2\]/,
    );
    assert.throws(() => advance(device.zeros([1])), /step must be u32 \[1\], got f32 \[1\]/);
  });
});

test.run();
