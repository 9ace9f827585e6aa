import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { chooseImages, paperSubset } from '../../src/data/subset.ts';
import { refuses } from '../formats/fuzz.ts';
import { loadFixture } from '../support.ts';

const fixture = loadFixture('data/subset');
for (const [name, { n, count, seed }] of Object.entries(fixture.cases) as [
  string,
  Record<string, number>,
][]) {
  test(`as NumPy chooses ${count} of ${n} with seed ${seed}`, () => {
    assert.equal([...paperSubset(n!, count, seed)], [...fixture.get(name).data]);
  });
}

test('by default the 500 images of seed 0', () => {
  assert.equal([...paperSubset(10000)], [...fixture.get('10000 500 0').data]);
  assert.is(new Set(paperSubset(10000)).size, 500);
});

test('numbers out of range are refused', () => {
  refuses(() => paperSubset(0), 'n must be', '0');
  refuses(() => paperSubset(499), 'count must be', '1 to n = 499', '500');
  refuses(() => paperSubset(10, 2.5), '2.5');
  refuses(() => paperSubset(10, 5, -1), 'seed', '-1');
  refuses(() => paperSubset(10, 5, 2 ** 32), 'seed', '4294967296');
});

test('a range or a list of images', () => {
  const choose = (choice: object) => chooseImages('Toy', 'the test split', 6, choice);
  assert.equal(choose({}), [0, 1, 2, 3, 4, 5]);
  assert.equal(choose({ offset: 4 }), [4, 5]);
  assert.equal(choose({ offset: 1, count: 2 }), [1, 2]);
  assert.equal(choose({ indices: Uint32Array.of(5, 0, 5) }), [5, 0, 5]);
  refuses(() => choose({ offset: 4, count: 3 }), 'Toy: 3 images from 4', 'the test split holds 6, 0 to 5');
  refuses(() => choose({ count: 0 }), '0 images');
  refuses(() => choose({ offset: 0.5 }), '0.5');
  refuses(() => choose({ indices: [1, 6] }), 'image 6 is not there', 'holds 6');
  refuses(() => choose({ indices: [] }), 'empty');
  refuses(() => choose({ indices: [1], count: 1 }), 'exclude each other');
});

test.run();
