"""What is read out, and how: checked by eye, one line per case."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosyjax.errors import ConfigError
from cosyjax.text import normalise, read_en, read_zh, tags
from cosyjax.text.normalise import detect_language

CHINESE = {
  "我有123个苹果，价格是￥45.60。": "我有一百二十三个苹果，价格是四十五点六零元。",
  "今天是2024年5月1日，气温-3.5℃，湿度80%。": "今天是二零二四年五月一日，气温负三点五摄氏度，湿度百分之八十。",
  "截止2024-05-01和2024/5/1": "截止二零二四年五月一日和二零二四年五月一日。",
  "我的电话是13800138000，座机010-12345678。": "我的电话是幺三八零零幺三八零零零，座机零幺零幺二三四五六七八。",
  "验证码：1024，请拨打12306": "验证码：幺零二四，请拨打幺二三零六。",
  "比分是3:2，时间是12:30。": "比分是三比二，时间是十二点三十分。",
  "１２：３０开会，８点０５分": "十二点三十分开会，八点零五分。",
  "会议10:00-12:00，下午2:05见": "会议十点到十二点，下午两点零五分见。",
  "占比1/3，大约10~20公里/小时。": "占比三分之一，大约十到二十公里每小时。",
  "面积25m²，长3km，重5kg，车速60km/h": "面积二十五平方米，长三公里，重五公斤，车速六十公里每小时。",
  "第2天买了2个，共2.5万元，2月2日": "第二天买了两个，共二点五万元，二月二日。",
  "1,234,567人，0.5倍，+5，-6": "一百二十三万四千五百六十七人，零点五倍，正五，负六。",
  "共100000000元，10010米，20000人，110次": "共一亿元，一万零一十米，两万人，一百一十次。",
  "卖了$999，即US$1.5亿，€20，50USD": "卖了九百九十九美元，即一点五亿美元，二十欧元，五十美元。",
  "5-7岁，2-3天，10%~20%，-5~10℃": "五到七岁，两到三天，百分之十到百分之二十，负五到十摄氏度。",
  "1990年代，2012-2013年，85后": "一九九零年代，二零一二到二零一三年，八五后。",
  "算3×4=12，2+3=5，x²+y²=z²": "算三乘以四等于十二，二加三等于五，x平方加y平方等于z平方。",
  "iPhone15和A380，ISO9001，5G网络，v1.2.3版本": "iPhone十五和A三八零，ISO九零零一，五G网络，v一点二点三版本。",
  "10元/斤，售价￥20/斤，100+人": "十元每斤，售价二十元每斤，一百多人。",
  "他排名№1，第Ⅲ章，3½杯，３０㎡": "他排名第一，第三章，三又二分之一杯，三十平方米。",
  "编号007，圆周率3.14159": "编号零零七，圆周率三点一四一五九。",
  "占100%，0.05%，5‰": "占百分之百，百分之零点零五，千分之五。",
  "（张三）【李四】——走了 - 真的": "张三，李四，走了，真的。",
  "你 好 world 再 见": "你好world再见。",
  "他……走了...好吧,": "他……走了……好吧。",
  "第一行\n第二行。\n\n第三段": "第一行，第二行。第三段。",
  "ＡＢＣ公司，ＯＫ！": "ABC公司，OK！",
  "你好😀世界👍🏽": "你好世界。",
  "访问www.example.com或a@b.com": "访问www点example点com或a艾特b点com。",
  "他说：I have 5 apples and 2 dogs. 他有3只猫。": "他说：I have five apples and two dogs。他有三只猫。",
  "Mr. Wang来了。U.S.A很远": "Mr. Wang来了。U.S.A很远。",
  "1+1>1，10^3是一千，温度零下-5度": "一加一大于一，十的三次方是一千，温度零下五度。",
}

ENGLISH = {
  "I have 123 apples, it costs $45.60.": (
    "I have one hundred and twenty-three apples, it costs forty-five dollars and sixty cents."
  ),
  "On May 1, 2024 it was -3.5°C and 80% humid": (
    "On May first, twenty twenty-four it was minus three point five degrees Celsius and eighty percent humid."
  ),
  "Call 555-123-4567 now": "Call five five five, one two three, four five six seven now.",
  "or +1 (800) 555-0199": "or plus one, eight zero zero, five five five, zero one nine nine.",
  "It's 12:30 pm, or 1:05, or 10:00.": "It's twelve thirty PM, or one oh five, or ten o'clock.",
  "open 8:00am-5:30pm, or 8 a.m. to 5 p.m.": "open eight AM to five thirty PM, or eight AM to five PM.",
  "Dr. Smith met Mr. Jones, i.e. no. 5": "Doctor Smith met Mister Jones, that is no. five.",
  "1/2, 2/3, 3/4 and 3 1/2": "one half, two thirds, three quarters and three and a half.",
  "25 km/h and 5kg, 1 km, 70 mph": (
    "twenty-five kilometers per hour and five kilograms, one kilometer, seventy miles per hour."
  ),
  "3.14 and 0.001 and 1,234,567": (
    "three point one four and zero point zero zero one and one million two"
    " hundred and thirty-four thousand five hundred and sixty-seven."
  ),
  "the 21st century, the 1990s, the 90s": "the twenty-first century, the nineteen nineties, the nineties.",
  "in 1905, by 2050, from 2000 to 2010": "in nineteen oh five, by twenty fifty, from two thousand to twenty ten.",
  "2024-05-01 or 5/1/2024 or 1 May 2024": (
    "May first, twenty twenty-four or May first, twenty twenty-four or the first of May, twenty twenty-four."
  ),
  "£5, €10, ¥100, $1.5 million, $0.99, $1": (
    "five pounds, ten euros, one hundred yen, one point five million dollars, ninety-nine cents, one dollar."
  ),
  "$5-10 million, 5 USD, $5M": "five to ten million dollars, five dollars, five million dollars.",
  "pages 5-10, 2020-2024, 10-20%": "pages five to ten, twenty twenty to twenty twenty-four, ten to twenty percent.",
  "me@x.com or www.example.com/a-b": "me at x dot com or www dot example dot com slash a dash b.",
  "version v1.2.3, Section 3.1.2": "version v one point two point three, Section three point one point two.",
  "x = y + 2, 3 x 4, 5 > 3, 2^10": (
    "x equals y plus two, three times four, five is greater than three, two to the power of ten."
  ),
  "A4, B2B, iPhone 15, COVID-19, 3D": "A four, B two B, iPhone fifteen, COVID-nineteen, three D.",
  "AT&T, 5 & 6, #5, No. 7, 24/7": "AT and T, five and six, number five, number seven, twenty-four seven.",
  "1234567890123456789": (
    "one two three four five six seven eight nine zero one two three four five six seven eight nine."
  ),
  "ＡＢＣ１２３，ok！": "ABC one hundred and twenty-three,ok!",
  "it’s Chapter IV — see ½ cup": "it's Chapter four — see one half cup.",
  "line one\nline two\n\nthe end": "line one, line two. the end.",
  "so 👍 good,": "so good.",
  "m² is x²; the temperature is 72°F": "m squared is x squared; the temperature is seventy-two degrees Fahrenheit.",
  "1001 nights, 100,000, 2000000000": "one thousand and one nights, one hundred thousand, two billion.",
  "ratio 3:1, score 100+, ~5, ±2": "ratio three to one, score one hundred plus, about five, plus or minus two.",
  "I can't. The U.S. won't.": "I can't. The U.S. won't.",
}


@pytest.mark.parametrize(("text", "spoken"), CHINESE.items())
def test_chinese(text, spoken):
  assert normalise(text) == spoken


@pytest.mark.parametrize(("text", "spoken"), ENGLISH.items())
def test_english(text, spoken):
  assert normalise(text) == spoken


def test_other_languages_keep_their_digits():
  assert normalise("今日は2024年5月1日です。") == "今日は2024年5月1日です。"
  assert normalise("저는 25살입니다") == "저는 25살입니다."
  assert normalise("Мне 25 лет!") == "Мне 25 лет!"
  assert normalise("J'ai 25 ans.", "other") == "J'ai 25 ans."


def test_language():
  assert detect_language("hello 12") == "en"
  assert detect_language("12") == "en"
  assert detect_language("hello 世界") == "zh"
  assert detect_language("𠮷") == "zh"
  assert detect_language("鲜の每日牛奶很好喝") == "zh"
  assert detect_language("世界へ、こんにちは") == "other"
  assert normalise("2个", "en") == "two个。"
  with pytest.raises(ConfigError, match="expected one of"):
    normalise("a", "xx")


def test_tags_are_never_altered():
  for tag in (tags.END_OF_TEXT, *tags.SPECIAL):
    assert tag in normalise(f"我有2个{tag}，3个")
    assert tag in normalise(f"I have 2{tag} or 3 & 4")
  assert normalise("I said <strong>12</strong> [breath] ok") == "I said <strong>twelve</strong> [breath] ok."
  assert normalise("I said <strong>no</strong> 你好") == "I said <strong>no</strong>你好。"


def test_an_end_mark_is_added_once():
  assert normalise("你好") == "你好。"
  assert normalise("你好！") == "你好！"
  assert normalise("你好。[laughter]") == "你好。[laughter]"
  assert normalise("你好[laughter]") == "你好[laughter]。"
  assert normalise("他说：“走。”") == "他说：“走。”"
  assert normalise("Hi") == "Hi."
  assert normalise("") == normalise("  ") == normalise("🎉") == ""


def _chinese_value(spoken: str) -> int:
  """Reads a Chinese number back."""
  digit = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"两": 2}
  total = part = current = 0
  for c in spoken:
    if c in digit:
      current = digit[c]
    elif c in "十百千":
      part += (current or 1) * {"十": 10, "百": 100, "千": 1000}[c]
      current = 0
    elif c == "万":
      total, part, current = total + (part + current) * 10**4, 0, 0
    else:
      total, part, current = (total + part + current) * 10**8, 0, 0
  return total + part + current


@settings(max_examples=300, deadline=None)
@given(
  st.one_of(
    st.integers(0, 10**16 - 1),
    st.integers(0, 30_000),
    st.builds(lambda a, b: a * 10**b, st.integers(0, 99), st.integers(0, 13)),
  )
)
def test_chinese_numbers_read_back(value):
  spoken = read_zh.quantity(str(value))
  assert _chinese_value(spoken) == value
  assert "零零" not in spoken and (value == 0 or not spoken.endswith("零"))


def _english_value(spoken: str) -> int:
  small = {read_en.quantity(str(n)): n for n in range(100)}
  total = part = 0
  for word in spoken.replace(" and ", " ").split():
    if word == "hundred":
      part *= 100
    elif word in ("thousand", "million", "billion", "trillion"):
      total += part * 1000 ** (["thousand", "million", "billion", "trillion"].index(word) + 1)
      part = 0
    else:
      part += small[word]
  return total + part


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.integers(0, 10**15 - 1), st.integers(0, 30_000)))
def test_english_numbers_read_back(value):
  assert _english_value(read_en.quantity(str(value))) == value


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789.,:/-+%$¥€°C年月日个点mkg(x=~ 我a", max_size=24))
def test_no_digit_is_left(text):
  """Whatever numbers look like, Chinese and English read every digit, and reading again changes nothing."""
  for language in ("zh", "en"):
    spoken = normalise(text, language)
    assert not any(c.isdigit() for c in spoken)


UNITS = (
  "1.", "1-", "1,", "111,", "1+", "1 + ", "1:1", "a.b@", "a@", "www.", "http://a/", "1/2 ", "$1 ", "May ", "(555) ",
  "电话", "我 1 ", "1 1/", "+1", "12:3", "a-1.", "a.", "1 .", "￥1-",
)  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_time_grows_with_length_alone(unit):
  for text in (unit * (40_000 // len(unit)), "我" + unit * (40_000 // len(unit))):
    start = time.perf_counter()
    normalise(text)
    assert time.perf_counter() - start < 5
