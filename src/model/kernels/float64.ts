/**
 * sin, cos, exp, log and pow in float64 from + − × ÷ and bit operations, because Math's differ in bits between JavaScript runtimes.
 * Source: fdlibm (Sun Microsystems, 1993): k_sin.c, k_cos.c, e_exp.c, e_log.c; error below 1 ulp. For tables built once at start, not for hot paths.
 * @module
 */

const words = new DataView(new ArrayBuffer(8));

/** 2^n for a normal result, −1022 ≤ n ≤ 1023. */
function powerOfTwo(n: number): number {
  words.setUint32(0, (n + 1023) << 20);
  words.setUint32(4, 0);
  return words.getFloat64(0);
}

/** Horner's rule, highest power first. */
function polynomial(x: number, coefficients: readonly number[]): number {
  let y = 0;
  for (const c of coefficients) y = y * x + c;
  return y;
}

// ---------------------------------------------------------------- exp, log, pow

const LN2_HIGH = 0.6931471803691238; // 32 significant bits, so n * LN2_HIGH is exact
const LN2_LOW = 1.9082149292705877e-10;
const EXP = [4.1381367970572385e-8, -1.6533902205465252e-6, 6.613756321437934e-5, -0.0027777777777015593, 0.16666666666666602];

/** e^x for |x| ≤ 700. */
export function exp(x: number): number {
  const n = Math.floor(x * Math.LOG2E + 0.5);
  const high = x - n * LN2_HIGH;
  const low = n * LN2_LOW;
  const r = high - low;
  const t = r * r;
  const c = r - t * polynomial(t, EXP);
  return (1 - (low - (r * c) / (2 - c) - high)) * powerOfTwo(n);
}

const LOG = [0.14798198605116586, 0.15313837699209373, 0.1818357216161805, 0.22222198432149784, 0.2857142874366239, 0.3999999999940942, 0.6666666666666735];

/** Natural logarithm of a positive normal number. */
export function log(x: number): number {
  words.setFloat64(0, x);
  let n = (words.getUint32(0) >>> 20) - 1023;
  words.setUint32(0, (words.getUint32(0) & 0xfffff) | 0x3ff00000);
  let m = words.getFloat64(0); // x = m 2^n, m in [1, 2)
  if (m > Math.SQRT2) {
    m /= 2;
    n += 1;
  }
  const f = m - 1;
  const s = f / (2 + f);
  const z = s * s;
  const half = (f * f) / 2;
  return n * LN2_HIGH - (half - (s * (half + z * polynomial(z, LOG)) + n * LN2_LOW) - f);
}

/** base^exponent for a positive base. */
export function pow(base: number, exponent: number): number {
  return exp(exponent * log(base));
}

// ---------------------------------------------------------------- sin, cos

const PIO2_1 = 1.5707963267341256; // three pieces of π/2, 33 bits each: n * piece is exact for n < 2^20
const PIO2_2 = 6.077100506303966e-11;
const PIO2_3 = 2.0222662487111665e-21;
const PIO2_3_TAIL = 8.4784276603689e-32;
const SIN = [1.58969099521155e-10, -2.5050760253406863e-8, 2.7557313707070068e-6, -0.0001984126982985795, 0.00833333333332249, -0.16666666666666632];
const COS = [-1.1359647557788195e-11, 2.087572321298175e-9, -2.7557314351390663e-7, 2.480158728947673e-5, -0.001388888888887411, 0.0416666666666666];

function kernelSin(x: number): number {
  const z = x * x;
  return x + x * z * polynomial(z, SIN);
}

function kernelCos(x: number): number {
  const z = x * x;
  const half = z / 2;
  const w = 1 - half;
  return w + (1 - w - half + z * z * polynomial(z, COS));
}

/** sin and cos of x, |x| < 1.6 million. */
export function sinCos(x: number): { sin: number; cos: number } {
  const n = Math.floor(x * 0.6366197723675814 + 0.5);
  const r = x - n * PIO2_1 - n * PIO2_2 - n * PIO2_3 - n * PIO2_3_TAIL;
  const s = kernelSin(r);
  const c = kernelCos(r);
  switch (n & 3) {
    case 0:
      return { sin: s, cos: c };
    case 1:
      return { sin: c, cos: -s };
    case 2:
      return { sin: -s, cos: -c };
    default:
      return { sin: -c, cos: s };
  }
}
