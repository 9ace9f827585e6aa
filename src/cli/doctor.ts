/** `cmap doctor`: which adapters there are, which is used and why, whether it computes correctly and how fast. */
import { Command } from 'commander';
import { adviceFor, listAdapters } from '../engine/adapter.ts';
import { Device } from '../engine/device.ts';
import { formatBytes } from '../engine/errors.ts';
import { conv2d } from '../kernels/conv2d.ts';
import { loadTuning } from '../tuning.ts';

export interface SelfTest {
  readonly ok: boolean;
  /** Largest difference from the same convolution in double precision. */
  readonly maxError: number;
  readonly gflops: number;
  readonly firstResultMs: number;
}

/** A 3×3 convolution checked against the host, then repeated for about a second. */
async function selfTest(device: Device, milliseconds = 1000): Promise<SelfTest> {
  const [n, side, c] = [8, 14, 48];
  const wave = (count: number, seed: number) =>
    Float32Array.from({ length: count }, (_, i) => Math.sin(seed + 0.37 * i));
  const xs = wave(n * side * side * c, 1);
  const ws = wave(9 * c * c, 2);
  const start = performance.now();
  const x = device.tensor(xs, [n, side, side, c]);
  const w = device.tensor(ws, [3, 3, c, c]);
  const program = device.record('self-test', () => conv2d(x, w, { padding: 1 }));
  const y = await program.run().floats();
  const firstResultMs = performance.now() - start;

  let maxError = 0;
  for (let sample = 0; sample < 200; sample++) {
    const index = (sample * 7919) % y.length;
    const [co, px, py] = [index % c, Math.floor(index / c) % side, Math.floor(index / (c * side)) % side];
    const image = Math.floor(index / (c * side * side));
    let sum = 0;
    for (let dy = 0; dy < 3; dy++) {
      for (let dx = 0; dx < 3; dx++) {
        const [iy, ix] = [py + dy - 1, px + dx - 1];
        if (iy < 0 || iy >= side || ix < 0 || ix >= side) continue;
        for (let ci = 0; ci < c; ci++) {
          sum +=
            (xs[((image * side + iy) * side + ix) * c + ci] as number) *
            (ws[((dy * 3 + dx) * c + ci) * c + co] as number);
        }
      }
    }
    maxError = Math.max(maxError, Math.abs(sum - (y[index] as number)));
  }

  const began = performance.now();
  let runs = 0;
  while (performance.now() - began < milliseconds) {
    for (let i = 0; i < 4; i++, runs++) program.run();
    await device.sync();
  }
  const seconds = (performance.now() - began) / 1000;
  program.dispose();
  x.dispose();
  w.dispose();
  const flops = 2 * n * side * side * c * c * 9;
  // 432 products of magnitude up to one: rounding stays below 1e-4, that of factors to f16 below 2e-2.
  const limit = device.capabilities.matrix > 0 ? 2e-2 : 1e-4;
  return { ok: maxError < limit, maxError, gflops: (runs * flops) / seconds / 1e9, firstResultMs };
}

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('Show the adapters, which one is used and why, and test it for a second.')
    .option(
      '--adapter <name>',
      'hardware, lavapipe, swiftshader, or part of an adapter’s name (or CMAP_ADAPTER)',
    )
    .option('--json', 'print one JSON object')
    .action(async (options: { adapter?: string; json?: boolean }) => {
      const adapters = await listAdapters({ adapter: options.adapter });
      const device = await Device.open({ adapter: options.adapter });
      const tuning = loadTuning(device);
      const test = await selfTest(device);
      const advice = adviceFor(adapters);
      if (options.json) {
        process.stdout.write(
          `${JSON.stringify({ adapters, used: device.adapter, tuning, selfTest: test, advice }, null, 2)}\n`,
        );
      } else {
        const { name, reason, driver, features, limits, profile, precision } = device.adapter;
        const out = (line: string) => process.stdout.write(`${line}\n`);
        out('adapters');
        for (const a of adapters) out(`  ${a.usable ? 'usable  ' : 'unusable'}  ${a.name}: ${a.why}`);
        out(`used      ${name}: ${reason}`);
        out(`driver    ${driver || 'not stated'}; ${profile} profile, ${precision}; node ${process.version}`);
        out(
          `features  ${features.filter((f) => /f16|subgroup|timestamp/.test(f)).join(', ') || 'none of those the kernels use'}`,
        );
        out(
          `limits    one tensor ${formatBytes(device.capabilities.maxBinding)}, ${limits.maxComputeInvocationsPerWorkgroup} invocations and ` +
            `${formatBytes(limits.maxComputeWorkgroupStorageSize ?? 0)} a workgroup, subgroups of ${device.capabilities.subgroupSize || 'varying size'}`,
        );
        out(
          `tuning    ${tuning ? `${tuning.choices} choices of kernels from ${tuning.path}` : 'none for this adapter; cmap tune measures kernels once and keeps the fastest'}`,
        );
        out(
          `self-test ${test.ok ? 'passed' : 'FAILED'}: 3×3 convolution, largest error ${test.maxError.toExponential(1)}, ` +
            `${test.gflops.toFixed(1)} GFLOP/s, first result after ${test.firstResultMs.toFixed(0)} ms`,
        );
        if (advice) out(`faster    ${advice}`);
      }
      if (!test.ok) process.exitCode = 1;
    });
}
