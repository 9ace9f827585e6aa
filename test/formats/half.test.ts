import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { bfloatToFloat, floatToBfloat, floatToHalf, halfToFloat } from '../../src/formats/half.ts';

const every = Uint16Array.from({ length: 65536 }, (_, i) => i);

test('every half and bfloat survives the way to float and back', () => {
  for (const [decode, encode] of [
    [halfToFloat, floatToHalf],
    [bfloatToFloat, floatToBfloat],
  ] as const) {
    const floats = decode(every);
    const back = encode(floats);
    for (let i = 0; i < 65536; i++) {
      if (Number.isNaN(floats[i])) assert.ok(Number.isNaN(decode(back.subarray(i, i + 1))[0]));
      else if (back[i] !== i) assert.unreachable(`${i} became ${back[i]}`);
    }
  }
});

test('known halves', () => {
  const known = [0x0001, 0x03ff, 0x0400, 0x3555, 0x3c00, 0x7bff, 0xfc00, 0x8000];
  const wanted = [
    2 ** -24,
    1023 * 2 ** -24,
    2 ** -14,
    0.333251953125,
    1,
    65504,
    Number.NEGATIVE_INFINITY,
    -0,
  ];
  assert.equal([...halfToFloat(Uint16Array.from(known))], wanted);
});

test('halves are rounded to nearest, ties to even', () => {
  const encode = (x: number) => floatToHalf(Float32Array.of(x))[0];
  assert.is(encode(1 + 2 ** -11), 0x3c00);
  assert.is(encode(1 + 3 * 2 ** -11), 0x3c02);
  assert.is(encode(1 + 2 ** -11 + 2 ** -20), 0x3c01);
  assert.is(encode(65519.99), 0x7bff);
  assert.is(encode(65520), 0x7c00);
  assert.is(encode(2 ** -25), 0);
  assert.is(encode(1.5 * 2 ** -24), 2);
  assert.is(encode(2 ** -25 * 1.001), 1);
  assert.is(encode(1023.5 * 2 ** -24), 0x0400);
  assert.is(encode(-1e-30), 0x8000);
});

test('every value between two halves goes to the nearer', () => {
  const positive = halfToFloat(every.subarray(0, 0x7c00));
  for (let i = 0; i + 1 < positive.length; i += 7) {
    const [low, high] = [positive[i] as number, positive[i + 1] as number];
    const middle = (low + high) / 2;
    const got = floatToHalf(Float32Array.of(middle, low + (high - low) * 0.49, low + (high - low) * 0.51));
    assert.equal([...got], [i % 2 === 0 ? i : i + 1, i, i + 1]);
  }
});

test('bfloats are rounded to nearest, ties to even, and keep NaN', () => {
  const encode = (bits: number) => floatToBfloat(new Float32Array(Uint32Array.of(bits).buffer))[0];
  assert.is(encode(0x3f808000), 0x3f80);
  assert.is(encode(0x3f818000), 0x3f82);
  assert.is(encode(0x3f808001), 0x3f81);
  assert.is(encode(0x7f7fffff), 0x7f80);
  assert.is(encode(0x7f800001), 0x7fc0);
});

test.run();
