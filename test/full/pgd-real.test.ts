/**
 * PGD on published CIFAR-10 networks against a PyTorch loop in float64, image by image: the first 200 test images, no
 * random start, 20 steps of eps/8 (test/fixtures/attacks/real-pgd.safetensors, written by reference/attacks.py real).
 *
 * Rounding decides the sign of a gradient near zero, and a sign moves a pixel by a quarter of eps; so the same loop in
 * PyTorch's own float32 is the measure of what rounding does, and stands in the table beside ours.
 * Prints the rows of the table in docs/attacks.md.
 */
import { test } from 'uvu';
import { assertAgrees, comparePgd, realPgdRows } from '../attacks/real.ts';

const percent = (count: number, of: number) => ((100 * count) / of).toFixed(1);

for (const row of realPgdRows()) {
  test(`${row.name}, eps ${Math.round(row.eps * 2550) / 10}/255: PyTorch's successes and losses`, async () => {
    const found = await comparePgd(row, 200);
    if (!found) return;
    const { images, ours, theirs, float32 } = found;
    const line = [
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
    ];
    console.log(`| ${line.join(' | ')} |`);
    assertAgrees(found);
  });
}

test.run();
