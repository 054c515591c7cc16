"""Texts for the tests of text streams."""

CORPUS = [
  "Hello from JAX.",
  "The quick brown fox jumps over the lazy dog, and then it sleeps.",
  "I have 123 apples, it costs $45.60.",
  "They raised $5 million in 2021 and £1.5 billion later on.",
  "Pi is 3.14, roughly; e is 2.718.",
  "Between 10-20% of people, or 5 in 100, agree.",
  "Dr. Smith met Mr. Jones and Prof. Lee, i.e. the board, at 5 p.m. on Monday.",
  "The 1990s were great, the 80s were better, and in 2010 everything changed.",
  "On May 1, 2024 it was -3.5°C and 80% humid outside.",
  "He was born on the 5th of May 1984 in a small town.",
  "From 1990 to 2010 we lived there; between 2011 and 2015 we did not.",
  "2024-05-01 or 5/1/2024 or 1 May 2024, whichever you prefer.",
  "Call 555-123-4567 now, or +1 (800) 555-0199 later!",
  "It's 12:30 pm, or 1:05, or 10:00 in the morning.",
  "Add 1/2 cup, 3/4 spoon and 3 1/2 eggs to the bowl and stir.",
  "It runs 25 km/h and weighs 5kg, which is about 11 lbs.",
  "See Chapter IV and World War II, Part of the story.",
  "Open www.example.com/a-b or write to me@x.com today.",
  "https://x.org/page is down. Try again later?",
  "x = y + 2, 3 x 4, 5 > 3, 2^10 and so on and so forth",
  "AT&T, R & D, 5 & 6, #5, No. 7, 24/7",
  "“Quoted words,” she said, “are fine.” Then she left…",
  "'Tis the season: don't, can't, won't, we'll, they're, I've.",
  'He said "Stop!" and left. "Really?" she asked.',
  "A well-known state-of-the-art idea — or not — came (maybe) late.",
  "So 👍 good, 👨‍👩‍👧 family and 🎉🎉 party!",
  "[laughter] That is <strong>really</strong> funny [breath] you know.",
  "I said <strong>12</strong> times [sigh] and <laughter>again</laughter>.",
  "A list [of things] <like this> [laugh] is no tag.",
  "Line one\nline two\n\nthe end\r\nof it",
  "Café, naïve, cafe\u0301 and re\u0301sume\u0301 are words.",
  "m² is x²; the temperature is 72°F in ½ an hour.",
  "version v1.2.3, Section 3.1.2, COVID-19, A4 and iPhone 15",
  "1234567890123456789 is long, and so is 1,234,567.",
  "The U.S. economy grew. J. K. Rowling wrote. approx. five of them vs. six",
  "wait... what?! no way!!",
  "ends in a comma, ",
  "no end mark",
  "你好，我们今天去公园吧。",
  "我有123个苹果，价格是￥45.60。",
  "今天是2024年5月1日，气温-3.5℃，湿度80%。",
  "我的电话是13800138000，座机010-12345678。",
  "验证码：1024，请拨打12306！他说：“走吧。”",
  "比分是3:2，时间是12:30。会议10:00-12:00，下午2:05见",
  "占比1/3，大约10~20公里/小时，100+人",
  "第2天买了2个，共2.5万元；5-7岁，2-3天，10%~20%",
  "1990年代，2012-2013年，85后、90后",
  "iPhone15和A380，ISO9001，5G网络，v1.2.3版本",
  "（张三）【李四】——走了 - 真的……好吧...",
  "你 好 world 再 见，OK，GDP增长5%",
  "第一行\n第二行。\n\n第三段",
  "你好😀世界👍🏽，[laughter]真好！<strong>3</strong>个 [breath]",
  "他说：I have 5 apples and 2 dogs in 2020. 他有3只猫。",
  "他说：We all like the big red house that was built in 2020，真的",
  "访问www.example.com或a@b.com，《书名》「引号」『也』",
  "我喜欢你他们一起去公园走走吧然后回家吃饭看电视睡觉明天再去上班好不好呢真的很开心",
  "在1990年到2000年之间，他赚了$1.5亿。",
  "你好，",
  "今日は2024年5月1日です。ありがとうございます！",
  "カタカナとひらがな、「東京」へ行きます。か\u3099",
  "저는 25살입니다. 만나서 반갑습니다!",
  "Мне 25 лет! Как дела?",
  "สวัสดีครับ ผมชื่อจอห์น",
  "\u1112\u1161\u11ab\u1100\u1173\u11af",  # Korean letter by letter
]

# What differs from the whole text, and why.
DIFFERENT = {
  "Call 911, now! 请快点": "the language is not known to be Chinese when the number is read",
  "x" + "ou" * 40: "the BPE of more than 64 letters",
  "…" * 70 + "hi": "more than 64 signs before the first word",
}

# Parts of texts that are hard where they meet.
PARTS = [
  "<str", "[lau", "ghter]", "3.14", "$5 million", "Dr.", "Mr", " ", "\n\n", "。", "，", "你好", "去2个", "the ",
  "hello", " World", ". ", ", ", "が", "か\u3099", "cafe", "\u0301", "👍🏽", "½", "\u200d", "—", "”", "“", "5-10", "km",
]  # fmt: skip

# What reading rules look at.
READ_EN = (
  "May Part IV II in from between 1990 and 2010 5 5th of $5 million 3.14 10-20% 1990s Dr. Mr. vs. e.g. No. 7"
  " 12:30 pm p.m. a.m. km kg m . , word, end. Yes! (maybe) AT&T & x = + - 1/2 3 2024-05-01 100+ it’s 90s the"
  " A4 24/7 1,234,567 ½ ~5 <5 50USD café January Jan. 1 2024, U.S. I'm [laughter] <strong> 😀 www.example.com \n \n\n"
)
READ_ZH = (
  "我 今天 电话 ： 是 138 ￥45.60 ， 。 ！ 、 人 3 5 个 3-5 2024年5月1日 10% -5 ℃ 10元/斤 公里 60km/h 3:2 2"
  " iPhone 15 OK I have apples and dogs （张三） —— …… ... - + = “走吧。” 《书》 你好 [breath] hello We are 到"
  " 7 ABC 元 100+ \n"
)

ENGLISH = (
  "The old keeper climbed the stairs every evening, lit the lamp, and watched the ships go by. Nobody in the village"
  " could remember a night without light. When the storm came, however, the lamp went out; he sat down and waited. "
) * 3
CHINESE = (
  "清晨的阳光洒在窗台上，她慢慢地睁开眼睛，听见楼下传来的叫卖声。街角的面包店刚刚开门，空气里弥漫着咖啡的香味。"
) * 5
NUMBERS = "In 1990 they earned $5 million, up 10-20% from 1985. He bought 3 1/2 pounds on May 5, 2024. " * 4

# Said again and again.
ENDLESS = {
  "digits": "1", "letters": "a", "Chinese": "我", "base64": "aGVsbG8gd29y", "numbers": "1 2 ", "marks": "，",
  "mixed": "a，，", "blanks": "  \n", "accents": "e\u0301\u0316", "jamo": "\u1100\u1161\u1161", "emoji": "👍",
  "open": "[laughte", "spans": "<strong>", "sounds": "[breath]", "hyphens": "a-", "Thai": "ก็้", "dots": "a.",
  "kana": "カ", "both": "我 a ", "shouts": "ah!!! ",
}  # fmt: skip
