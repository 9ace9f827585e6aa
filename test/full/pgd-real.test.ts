/**
 * PGD on published CIFAR-10 networks against a PyTorch loop in float64, image by image: the first 200 test images, no
 * random start, 20 steps of eps/8 (test/fixtures/attacks/real-pgd.safetensors, written by reference/attacks.py real).
 *
 * Rounding decides the sign of a gradient near zero, and a sign moves a pixel by a quarter of eps; so the same loop in
 * PyTorch's own float32 is the measure of what rounding does, and stands in the table beside ours.
 */
import { test } from 'uvu';
import { writeFileAtomic } from '../../src/report/files.ts';
import { assertAgrees, comparePgd, realPgdRows } from '../attacks/real.ts';
import { root, testDevice } from '../support.ts';

const lines: string[][] = [];
const percent = (count: number, of: number) => ((100 * count) / of).toFixed(1);

for (const row of realPgdRows()) {
  test(`${row.name}, eps ${Math.round(row.eps * 2550) / 10}/255: PyTorch's successes and losses`, async () => {
    const found = await comparePgd(row, 200);
    if (!found) return;
    const { images, ours, theirs, float32 } = found;
    lines.push([
      `\`${row.name}\``,
      `${Math.round(row.eps * 2550) / 10}/255`,
      percent(ours.robust, images),
      percent(theirs.robust, images),
      ...[ours, float32].map(({ flips }) =>
        flips.length === 0 ? '0' : `${flips.length}: ${flips.map((f) => f.margin.toFixed(2)).join(', ')}`,
      ),
      ...[ours, float32].map(({ beyond }) => String(beyond)),
      ...[ours, float32].map(({ median }) => median.toExponential(0)),
      ...[ours, float32].map(({ worst }) => worst.toExponential(0)),
    ]);
    console.log(`  ${(lines.at(-1) as string[]).join(' | ')}`);
    assertAgrees(found);
  });
}

test.after(async () => {
  if (process.env.CMAP_WRITE_DOCS !== '1' || lines.length < realPgdRows().length) return;
  const { adapter } = await testDevice();
  writeFileAtomic(
    `${root}docs/pgd-real.md`,
    `# PGD on published CIFAR-10 networks, image by image

Written by \`CMAP_WRITE_DOCS=1 npm run test:full -- pgd-real\` on ${new Date().toISOString().slice(0, 10)}, ${adapter.name}: the first 200 test images,
L∞, no random start, 20 steps of eps/8, beside the same loop in PyTorch 1.13 in float64 (\`reference/attacks.py real\`).
_Other success_ counts images, with the margin z_y − max z_j of the float64 loop at each; _losses_ are those of the last
iterate, their difference |a − b| / (1 + b). Where the sign of a gradient near zero falls to the other side, a pixel moves by
a quarter of eps and paths part; so PyTorch's own float32 stands beside ours, as the measure of what rounding does.

| network | eps | robust % | PyTorch | other success | float32 | losses beyond 1e-3 | float32 | median | float32 | largest | float32 |
| --- | --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
${lines.map((line) => `| ${line.join(' | ')} |`).join('\n')}
`,
  );
});

test.run();
