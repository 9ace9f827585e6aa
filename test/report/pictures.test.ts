import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Image } from '../../src/formats/image.ts';
import { decodePng } from '../../src/formats/png.ts';
import { chartToPng, lineChart } from '../../src/report/chart.ts';
import { composeGrid, gridToPng } from '../../src/report/grid.ts';
import { escapeXml } from '../../src/report/raster.ts';

/** Pixels for which `wanted` holds. */
function count(image: Image, wanted: (r: number, g: number, b: number) => boolean): number {
  let found = 0;
  for (let i = 0; i < image.data.length; i += 3) {
    const [r, g, b] = image.data.subarray(i, i + 3) as unknown as [number, number, number];
    if (wanted(r, g, b)) found++;
  }
  return found;
}
const isGreen = (r: number, g: number, b: number) => g > r + 40 && g > b + 20;
const isRed = (r: number, g: number, b: number) => r > g + 60 && r > b + 60;

const two: Image = { width: 2, height: 2, channels: 1, data: Uint8Array.of(0, 80, 160, 240) };
const blue: Image = {
  width: 4,
  height: 2,
  channels: 3,
  data: Uint8Array.from({ length: 24 }, (_, i) => (i % 3 === 2 ? 255 : 0)),
};

test('a grid holds its images pixel by pixel, and its text', async () => {
  const grid = {
    columns: ['gray', 'colour'],
    rows: [
      { cells: [{ image: two, captions: [{ text: 'right', tone: 'good' as const }] }, { image: blue }] },
      {
        cells: [
          { captions: [{ text: 'vote' }, { text: '3 of 5' }] },
          { image: blue, captions: [{ text: 'wrong', tone: 'bad' as const }] },
        ],
      },
    ],
    size: 40,
  };
  const drawn = await composeGrid(grid);
  assert.is(
    count(drawn, (r, g, b) => r === 0 && g === 0 && b === 255),
    2 * 40 * 20,
  );
  // Each gray pixel has become a square of 20 x 20; text holds other grays only by its soft edges.
  for (const level of [80, 160, 240]) {
    const found = count(drawn, (r, g, b) => r === level && g === level && b === level);
    assert.ok(found >= 400 && found < 410, `${found} of ${level}`);
  }
  assert.ok(count(drawn, isGreen) > 10, 'green text');
  assert.ok(count(drawn, isRed) > 10, 'red text');
  assert.equal(await composeGrid(grid), drawn);
  assert.equal({ ...decodePng(await gridToPng(grid), 'grid') }, { ...drawn, transparent: false });
  assert.is(
    count(await composeGrid({ columns: [], rows: [] }), (r) => r < 255),
    0,
  );
});

test('more cells than columns are refused', async () => {
  let message = '';
  await composeGrid({ columns: [], rows: [{ cells: [null] }] }).catch((error) => (message = error.message));
  assert.match(message, '1 cells');
});

test('a chart draws its lines, gaps and legend', async () => {
  const svg = lineChart({
    title: 'Loss <total> & parts',
    panels: [
      {
        title: 'A',
        series: [
          { name: 'one', y: [1, 2, Number.NaN, 3, 4] },
          { name: 'two', y: [4, 3, 2, 1, 0], dashed: true },
        ],
      },
      {
        yScale: 'log',
        series: [{ name: 'three', y: [1e-3, 0, 10, -1], band: { low: [1e-4, 1, 1, 1], high: [1, 1, 1, 1] } }],
        references: [{ y: 1, label: 'one' }],
      },
    ],
  });
  assert.match(svg, 'Loss &lt;total&gt; &amp; parts');
  assert.match(svg, 'stroke-dasharray');
  assert.not.match(svg, /NaN|Infinity|undefined/);
  // The line with a gap begins twice; 0.001 and 10 stand alone.
  assert.is(/<path d="(M[^"]*)" fill="none" stroke="#0072b2"/.exec(svg)?.[1]?.split('M').length, 3);
  assert.is(svg.match(/<circle/g)?.length, 2);
});

test('a legend that is too wide goes on in the next line', () => {
  const series = Array.from({ length: 6 }, (_, i) => ({ name: `a long name of line ${i}`, y: [0, 1] }));
  const legends = (width: number) =>
    [...lineChart({ width, panels: [{ series }] }).matchAll(/<text[^>]* y="(\d+)"[^>]*><tspan/g)].map(
      (m) => m[1],
    );
  assert.equal(legends(2000), ['12']);
  assert.equal(legends(450), ['12', '32', '52']);
});

test('nothing, constants and huge numbers can be drawn', async () => {
  const panels = [
    [],
    [Number.NaN],
    [5],
    [0, 0],
    [1e-12, 2e-12],
    [1e30, -1e30],
    [Number.MAX_VALUE, 1],
  ].flatMap((y) => (['linear', 'log'] as const).map((yScale) => ({ yScale, series: [{ name: 'y', y }] })));
  assert.not.match(lineChart({ panels }), /NaN|Infinity|undefined/);
  lineChart({ panels: [] });
  const drawn = decodePng(
    await chartToPng({ panels: panels.slice(6, 8), width: 200, height: 120 }, 1),
    'chart',
  );
  assert.is(drawn.width, 2 * 200 + 28 + 40);
  assert.ok(count(drawn, (r, _, b) => b > r + 50) > 100, 'a blue line');
});

test('XML escapes', () => {
  assert.is(escapeXml('a<b>&"c"\u0000\u0007é\n'), 'a&lt;b&gt;&amp;&quot;c&quot;é\n');
});

test.run();
