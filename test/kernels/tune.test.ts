/** The tuner: problems are met, variants measured and checked, choices stored, loaded, and obeyed. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import { type Problem, Tuning } from '../../src/engine/tuning.ts';
import { packageRoot } from '../../src/formats/package-root.ts';
import { type Conv2dVariant, conv2d } from '../../src/kernels/conv2d.ts';
import { affine } from '../../src/kernels/elementwise.ts';
import { matmul, matmulCandidates } from '../../src/kernels/matmul.ts';
import { candidatesOf, kernelsVersion, problemsOf, type Tuned, tune } from '../../src/kernels/tune.ts';
import { loadTuning, saveTuning, tuningPath } from '../../src/tuning.ts';
import { assertClose, testDevice } from '../support.ts';

const folder = mkdtempSync(join(tmpdir(), 'cmap-tuning-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

async function setUp() {
  const device = await testDevice();
  const x = device.tensor(
    Float32Array.from({ length: 2 * 8 * 8 * 8 }, (_, i) => Math.sin(i)),
    [2, 8, 8, 8],
  );
  const w = device.tensor(
    Float32Array.from({ length: 9 * 8 * 12 }, (_, i) => Math.cos(i)),
    [3, 3, 8, 12],
  );
  const layer = () => vjp((u, v) => conv2d(u, v, { padding: 1, stride: 2 }), [x, w]);
  const all = () => {
    const { output, pullback } = layer();
    return [output, ...pullback()];
  };
  return { device, all };
}

test('problems are met once each, forward and gradients, and nothing runs', async () => {
  const { device, all } = await setUp();
  const problems = problemsOf(device, () => [...all(), ...all()]);
  assert.equal(
    problems.map(({ op, cin, cout, dilation }) => [op, cin, cout, dilation]),
    [
      ['conv2d', 8, 12, 1],
      ['conv2d', 12, 8, 2],
      ['conv2d-weight', 8, 12, undefined],
    ],
  );
  const a = device.zeros([3, 5, 7]);
  const b = device.zeros([7, 9]);
  const [product] = problemsOf(device, () => matmul(a, b));
  assert.equal([product?.op, product?.batch, product?.m, product?.n, product?.k], ['matmul', 3, 5, 9, 7]);
});

test('every variant of every problem gives the safe result, and is timed', async () => {
  const { device, all } = await setUp();
  const a = device.zeros([3, 6, 8]);
  const b = device.zeros([3, 10, 8]);
  const problems = problemsOf(device, () => [...all(), matmul(a, b, { transposeB: true })]);
  assert.is(problems.length, 4);
  const seen: number[] = [];
  const results = await tune(device, problems, { seconds: 0.02, onProblem: (done) => seen.push(done) });
  assert.equal(seen, [0, 1, 2, 3, 4]);
  for (const { problem, choice, milliseconds } of results) {
    assert.ok(choice === 'static' || candidatesOf(problem, device).includes(choice));
    for (const [name, ms] of Object.entries(milliseconds)) assert.ok((ms as number) > 0, `${name} is wrong`);
  }
});

test('a wrong variant never wins, be it NaN or the static choice itself', async () => {
  const { device, all } = await setUp();
  const [problem] = problemsOf(device, all) as [Problem];
  const record = device.record;
  /** What the tuner finds where the results of some variants are not what they should be. */
  const tuned = async (factorOf: (variant: string) => number) => {
    device.record = ((label: string, f: () => Tensor) => {
      const factor = factorOf(label.replace('tune ', ''));
      return record.call(device, label, () => (factor === 1 ? f() : affine(f(), factor)));
    }) as typeof record;
    try {
      const [result] = (await tune(device, [problem], { seconds: 0.02 })) as [Tuned];
      return result;
    } finally {
      device.record = record;
    }
  };
  const wrongStatic = await tuned((variant) => (variant === 'static' ? 1.001 : 1));
  assert.is(wrongStatic.milliseconds.static, null);
  assert.ok(candidatesOf(problem, device).includes(wrongStatic.choice as Conv2dVariant), wrongStatic.choice);
  assert.ok((wrongStatic.milliseconds[wrongStatic.choice] as number) > 0);

  for (const factor of [1.001, Number.NaN]) {
    const onlySafe = await tuned((variant) => (variant === 'direct' ? 1 : factor));
    assert.is(onlySafe.choice, 'direct');
    for (const [name, ms] of Object.entries(onlySafe.milliseconds))
      assert.is(ms !== null, name === 'direct', `${name} ${ms}`);
  }
});

test('a tuned choice is obeyed, whatever it is, and an unknown one is passed over', async () => {
  const { device, all } = await setUp();
  const problems = problemsOf(device, all);
  const before = device.tuning;
  const signatures = new Set<string>();
  const read = async () => {
    const program = device.record('tuned', all);
    signatures.add(program.signature);
    const host = await Promise.all(program.run().map((t) => t.floats()));
    program.dispose();
    return host;
  };
  try {
    const want = await read();
    for (const name of [...matmulCandidates(device.capabilities), 'tiled-17', '']) {
      device.tuning = new Tuning(new Map(problems.map((p) => [Tuning.keyOf(p), name])));
      for (const [i, got] of (await read()).entries())
        assertClose(got, want[i] as Float32Array, 1e-5, `${name} ${i}`);
    }
    assert.ok(signatures.size >= 2, [...signatures].join('\n'));
  } finally {
    device.tuning = before;
  }
});

test('choices are stored by adapter, driver and version of the kernels, and loaded', async () => {
  const { device, all } = await setUp();
  const problems = problemsOf(device, all);
  const before = { tuning: device.tuning, CMAP_TUNING: process.env.CMAP_TUNING };
  process.env.CMAP_TUNING = folder;
  try {
    const result = (choice: 'direct' | 'static') =>
      problems.map((problem) => ({ problem, choice, milliseconds: { static: 2, direct: 1 } }));
    // The shipped table of this adapter lies below, where there is one.
    const below = loadTuning(device);
    const shipped = below?.choices ?? 0;
    saveTuning(device, result('direct'));
    const paths = [tuningPath(device), ...(below ? [below.path] : [])];
    assert.equal(loadTuning(device), { path: paths.join(' and '), choices: shipped + problems.length });
    assert.is(device.tuning.choose(problems[0]!), 'direct');
    saveTuning(device, result('static').slice(0, 1));
    assert.is(loadTuning(device)?.choices, shipped + problems.length - 1, 'added to what is there');
    const [known] = Object.keys(
      below ? (JSON.parse(readFileSync(below.path, 'utf8')) as { choices: object }).choices : {},
    );
    if (known) {
      const problem = JSON.parse(known) as Problem;
      saveTuning(device, [{ problem, choice: 'static', milliseconds: { static: 1, direct: 2 } }]);
      loadTuning(device);
      assert.is(device.tuning.choose(problem), 'static', 'over the shipped choice');
    }
    const file = JSON.parse(readFileSync(tuningPath(device), 'utf8'));
    assert.is(file.kernels, kernelsVersion());
    writeFileSync(tuningPath(device), JSON.stringify({ ...file, kernels: '00000000' }));
    assert.equal(loadTuning(device), below, 'another version is passed over');
    saveTuning(device, result('direct').slice(0, 1));
    assert.is(loadTuning(device)?.choices, shipped + 1, 'and begun anew');
  } finally {
    device.tuning = before.tuning;
    if (before.CMAP_TUNING === undefined) delete process.env.CMAP_TUNING;
    else process.env.CMAP_TUNING = before.CMAP_TUNING;
  }
});

test('the tables that come with the project are of these kernels', () => {
  const tables = join(packageRoot(), 'weights', 'tuning');
  for (const name of readdirSync(tables)) {
    const { kernels, choices } = JSON.parse(readFileSync(join(tables, name), 'utf8'));
    assert.is(
      kernels,
      kernelsVersion(),
      `${name} is of older kernels and is never read: tune again (cmap tune --out), or delete it`,
    );
    for (const [key, choice] of Object.entries(choices)) {
      assert.ok(['matmul', 'conv2d', 'conv2d-weight'].includes(JSON.parse(key).op), key);
      assert.match(String(choice), /^(direct|subgroup|texels|tiled|matrix|winograd)/);
    }
  }
});

test.run();
