import { PassThrough } from 'node:stream';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { formatDuration, progress } from '../../src/report/progress.ts';
import { formatTable } from '../../src/report/table.ts';

function collect(isTTY: boolean) {
  let text = '';
  const stream = Object.assign(new PassThrough(), { isTTY, columns: 80 });
  stream.on('data', (part) => (text += part));
  return { stream, text: () => text };
}

test('tables are aligned, whatever their colours', () => {
  const table = formatTable(
    ['name', 'right'],
    [
      ['Bag', 3],
      ['\u001b[32mAnkle boot\u001b[39m', 14],
      ['', '87.5 %'],
    ],
  );
  assert.equal(table.split('\n'), [
    'name         right',
    '──────────  ──────',
    'Bag              3',
    '\u001b[32mAnkle boot\u001b[39m      14',
    '            87.5 %',
  ]);
  assert.is(formatTable(['a'], []), 'a\n─');
});

test('no terminal: sober lines, at most one an interval', async () => {
  const { stream, text } = collect(false);
  const line = progress('purify', 100, { stream, interval: 60 });
  line.tick();
  await new Promise((resolve) => setTimeout(resolve, 80));
  line.update(40, 'loss 0.1');
  line.tick(2);
  line.stop();
  line.stop();
  assert.match(text(), /^purify: 40\/100, 0\.\d s left, loss 0\.1\npurify: 42\/100 in 0\.\d s\n$/);
});

test('short tasks and quiet ones say nothing', () => {
  for (const quiet of [false, true]) {
    const { stream, text } = collect(false);
    const line = progress('x', 2, { stream, quiet });
    line.update(2);
    line.stop();
    assert.is(text(), '');
  }
});

test('a terminal gets a bar, which is cleared', () => {
  const { stream, text } = collect(true);
  const line = progress('purify', 4, { stream });
  line.tick();
  line.update(2, 'half');
  line.stop();
  line.stop();
  line.tick();
  assert.match(text(), /purify ━+─+ 2\/4 .*left {2}half/);
});

test('durations', () => {
  const texts = [0, 840, 9960, 42_000, 59_600, 200_000, 7_500_000].map(formatDuration);
  assert.equal(texts, ['0.0 s', '0.8 s', '10 s', '42 s', '1 min 0 s', '3 min 20 s', '2 h 5 min']);
});

test.run();
