import { PassThrough } from 'node:stream';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { formatDuration, progress } from '../../src/report/progress.ts';
import { formatTable } from '../../src/report/table.ts';

function collect(isTTY: boolean) {
  let text = '';
  const write = (part: string) => {
    text += part;
    return true;
  };
  return { stream: Object.assign(new PassThrough(), { isTTY, columns: 80, write }), text: () => text };
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

test('no terminal: sober lines, at most one in 10 s', () => {
  const { stream, text } = collect(false);
  let seconds = 0;
  const line = progress('purify', 100, { stream, now: () => 1000 * seconds });
  for (seconds = 1; seconds <= 25; seconds++) line.tick();
  line.update(40, 'loss 0.1');
  seconds = 200;
  line.update(100);
  line.stop();
  line.stop();
  assert.equal(text().split('\n'), [
    'purify: 10/100, 1 min 30 s left',
    'purify: 20/100, 1 min 20 s left',
    'purify: 100/100 in 3 min 20 s',
    '',
  ]);
});

test('a note is shown behind', () => {
  const { stream, text } = collect(false);
  let milliseconds = 0;
  const line = progress('purify', 100, { stream, now: () => milliseconds });
  milliseconds = 10_000;
  line.update(50, 'loss 0.1');
  assert.is(text(), 'purify: 50/100, 10 s left, loss 0.1\n');
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
