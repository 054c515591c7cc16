"""Numbers that Chinese reads digit by digit, cued by the words around them; rooms, scores and figures."""

import re

from cosyjax.text.rules import APART, DIGITS, FOUR, THREE, Rule, after, before
from cosyjax.text.zh_numbers import dialled, digits, quantity

_CALLS = (
  "客服电话|服务热线|联系电话|联系方式|电话号码|手机号码|电话|手机号?|热线|拨打|致电|请拨|拨|打给|客服|来电"
  "|传真|座机|固话|总机|分机|区号|短号"
)
_CODES = (
  "邮政编码|邮编|验证码|校验码|激活码|邀请码|兑换码|取件码|提取码|密码|口令|编号|学号|工号|账号|帐号|账户|卡号|银行卡"
  "|信用卡|群号|[Qq]群|QQ号?码?|微信号?|身份证号?码?|护照号?码?|证号|证件号码?"
  "|订单编?号?|快递单号|运单号?|单号|流水号|序列号|车牌号?码?|牌照|航班号?|车次|房间号?|房号|门牌号?|座位号|会议号"
  "|直播间号?|股票代码|基金代码|证券代码|代码|代号|编码|条形?码|批次号?|型号|尾号|末尾|后四位|号码|注册号|许可证号"
  "|统一社会信用代码|税号|合同号|案件号|档案号|准考证号?|考号|ID|id|Id"
)
_CUE = rf"(?:{_CALLS}|{_CODES})(?:号码?)?(?:是|为|:|：|叫|就是|,|，|#|【|\s)?\s?(?:[:：]\s?)?"
_SERVICE = (
  r"1(?:10|12|14|19|20|21|22|[0-9]{4})|100(?:00|01|10|11|16|50|86)|[49]5[0-9]{3}|955[0-9]{2}|96[0-9]{3,4}"
  r"|400-?[0-9]{3}-?[0-9]{4}|800-?[0-9]{3}-?[0-9]{4}"
)
_GROUPS = r"\+?[0-9]+(?:[ -][0-9]{1,8}){0,6}"


def _called(number: str) -> str:
  """Groups apart by a short pause, as a number is told to somebody."""
  return "，".join(dialled(group) for group in re.findall("[0-9]+", number))


def _cued(m: re.Match) -> str:
  number = m[3]
  if re.match(r"[人元块个次分秒天年月日%万亿千百点]", m.string[m.end() :]) and len(number) < 7:
    return m.group()
  if "-" in number:
    return f"{m[1]}{m[2] or ''}{dialled(number)}"
  return f"{m[1]}{m[2] or ''}{_called(number)}"


def _more(m: re.Match) -> str:
  """A second service number: 拨打110或者120."""
  return m[1] + dialled(m[2])


_WINS = (
  "大胜|战胜|击败|完胜|险胜|取胜|获胜|胜出|小胜|力克|逆转|领先|落后|告负|负于|不敌|惜败|横扫|淘汰|战平|打平|战成"
  "|踢成|轻取|晋级|夺冠|拿下|赢|输|胜|负|平"
)

_SCORED = re.compile(r"(?:比分|总分|局分|战成|踢成|打成|战绩)(?:是|为|达|[:：])?\s?$")
_WON = re.compile(rf"\s?(?:的?比分|的成绩|的优势|{_WINS})")


def _score(m: re.Match) -> str:
  if not (
    _SCORED.search(before(m)) or _WON.match(m.string, m.end()) or (before(m, 1) == "以" and not after(m).strip())
  ):
    return m.group()
  return f"{quantity(m[1])}比{quantity(m[2])}"


def _figure(m: re.Match) -> str:
  """图3-1 is a name; 第3-5节 are three of them."""
  numbers = m[2].split("-")
  if re.match(r"[章节条款题]", after(m)) and len(numbers) == 2 and int(numbers[0]) < int(numbers[1]):
    return m.group()
  return m[1] + "杠".join(map(quantity, numbers))


RULES = (
  Rule(
    "mobile",
    rf"{APART}(?:\+?86[- ]?)?1[3-9][0-9]([- ]?)[0-9]{{4}}\1[0-9]{{4}}(?![0-9.]|[- ][0-9])",
    lambda m: _called(m.group().replace("+", "")) if m[1] == " " else dialled(m.group()),
    (
      ("手机：138 1234 5678", "手机：幺三八，幺二三四，五六七八"),
      ("13800138000", "幺三八零零幺三八零零零"),
      ("+86 139-1234-5678", "八六幺三九幺二三四五六七八"),
    ),
    (DIGITS, THREE),
  ),
  Rule(
    "telephone with brackets",
    r"\s?[(（](0[0-9]{2,3}|\+?86)[)）]\s?([0-9]{7,8}|[0-9]{3,4}[- ][0-9]{4})(?![0-9])",
    lambda m: f"{dialled(m[1])}，{dialled(m[2])}",
    (("电话(010)62345678", "电话零幺零，六二三四五六七八"),),
    (DIGITS, "(（"),
  ),
  Rule(
    "telephone",
    rf"{APART}(?:\+?86[- ])?0[0-9]{{2,3}}[- ][0-9]{{7,8}}(?:[- 转][0-9]{{1,5}})?(?![0-9])",
    lambda m: dialled(m.group().replace("转", "转")),
    (("或010-12345678", "或零幺零幺二三四五六七八"),),
    (DIGITS, FOUR),
  ),
  Rule(
    "service telephone",
    r"(?<![0-9A-Za-z.])(?:400|800)([- ])[0-9]{3,4}\1[0-9]{3,4}(?![0-9])",
    lambda m: _called(m.group()),
    (("或400 800 1234", "或四零零，八零零，幺二三四"),),
    (DIGITS, THREE),
  ),
  Rule(
    "card",
    r"(?<![0-9A-Za-z.])[0-9]{4}(?: [0-9]{4}){2,3}(?: [0-9]{1,3})?(?![0-9])",
    lambda m: _called(m.group()),
    (("用6222 0212 3456 7890", "用六二二二，零二幺二，三四五六，七八九零"),),
    (DIGITS, FOUR, " "),
  ),
  Rule(
    "plate",
    r"([京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-Z])[·•\s]?([A-Z0-9]{5,6})(?![A-Za-z0-9])",
    lambda m: m[1] + dialled(m[2]),
    (("京A12345", "京A幺二三四五"), ("粤B·8Q123", "粤B八Q幺二三")),
    (DIGITS, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
  ),
  Rule(
    "code after a cue",
    rf"({_CUE})([A-Za-z]{{1,4}}-?)?((?<![0-9])(?:{_GROUPS}))(?![0-9A-Za-z.]?[0-9])",
    _cued,
    (
      ("验证码：1024", "验证码：幺零二四"),
      ("订单号202401150001", "订单号二零二四零幺幺五零零零幺"),
      ("股票代码600519", "股票代码六零零五幺九"),
      ("QQ号123456789", "QQ号幺二三四五六七八九"),
      ("航班MU5101", "航班MU五幺零幺"),
    ),
  ),
  Rule(
    "next code",
    rf"((?<=[零幺二三四五六七八九])\s?(?:或者?|和|及|与|、|/|，)\s?)({_SERVICE}|[0-9]{{5,12}})(?![0-9.]"
    rf"|[人元个次年月日%万亿])",
    lambda m: _more(m) if re.search(rf"(?:{_CALLS}|{_CODES})[^。！？；]{{0,12}}$", before(m)) else m.group(),
    (("请拨打110或者120", "请拨打幺幺零或者幺二零"),),
  ),
  Rule(
    "service number before its word",
    rf"(?<![0-9A-Za-z.])({_SERVICE}|12[0-9]{{3}})(?=报警|急救|火警|电话|热线|客服|服务热线|短信|接线|平台|指挥中心"
    rf"|市民)",
    lambda m: dialled(m[1]),
    (("110报警", "幺幺零报警"), ("12306客服", "幺二三零六客服")),
    (DIGITS, THREE),
  ),
  Rule(
    "called",
    rf"((?:打|报警|急救|火警|呼叫)[了过]?\s?)({_SERVICE})(?![0-9.]|[人元个次年月日%万亿分])",
    _more,
    (("快打120", "快打幺二零"),),
    (DIGITS, THREE),
  ),
  Rule(
    "trains and flights",
    r"(?<![A-Za-z0-9])([GDCZTKYLS])([0-9]{1,4})(?=次|列车|号列车)|(?<![A-Za-z0-9])([A-Z]{2}|[0-9][A-Z]|[A-Z][0-9])"
    r"([0-9]{3,4})(?=航班|次航班|号航班)",
    lambda m: (m[1] or "".join(quantity(c) if c.isdigit() else c for c in m[3])) + dialled(m[2] or m[4]),
    (("G1234次列车", "G幺二三四次列车"), ("CA1501航班", "CA幺五零幺航班")),
  ),
  Rule(
    "room",
    r"(?<![0-9A-Za-z.-])([0-9]{1,4}(?:-[0-9]{1,4}){1,3})(?=室|房|号房|单元|号楼|栋|户|号?铺|座)",
    lambda m: m[1].translate(str.maketrans("0123456789-", "零一二三四五六七八九杠")),
    (("3-202室", "三杠二零二室"),),
    (DIGITS, "-"),
  ),
  Rule(
    "known by their digits",
    r"(?<![0-9A-Za-z.,-])(?:(618|315|911|211|985|996|007|360|101|126|163)(?=大促|晚会|事件|大学|高校|院校|工作制"
    r"|购物节|年中|工程|系列|电影|邮箱|安全)"
    r"|(12306|12315|12333|12366|10086|10010|955[0-9]{2})(?![0-9.,%]|\s?[人元个名次台件辆万亿只股吨米公年]))",
    lambda m: digits(m[1]) if m[1] else dialled(m[2]),
    (("985高校", "九八五高校"), ("10086", "幺零零八六"), ("上12306查", "上幺二三零六查")),
  ),
  Rule(
    "days known by their digits",
    r"(?<![0-9A-Za-z.])([0-9]{1,2})[·•]([0-9]{1,2})(?![0-9])",
    lambda m: digits(m[1] + m[2]),
    (("5·12地震", "五一二地震"),),
    (DIGITS, "·•"),
  ),
  Rule(
    "room number",
    r"(?<![0-9A-Za-z.-])([1-9][0-9]{2,3})(?=室|房间|号房|教室|宿舍|包间|包厢|病房|寝室|会议室|路公交|国道|省道|县道"
    r"|高地|所(?!有)|医院)",
    lambda m: dialled(m[1]),
    (("502室", "五零二室"), ("8888房间", "八八八八房间"), ("318国道", "三幺八国道")),
    (DIGITS, THREE),
  ),
  Rule(
    "room behind a house",
    r"(?:(?<=单元)|(?<=号楼)|(?<=[栋座幢]))([1-9][0-9]{2,3})(?![0-9年月元平米.])",
    lambda m: dialled(m[1]),
    (("3栋2单元501", "三栋二单元五零幺"),),
    (DIGITS, THREE),
  ),
  Rule(
    "figure",
    r"((?:图|表|例|式|题|附录|附图|附表|方程|公式|章节?|实验|任务|习题|第|款|条)\s?)([0-9]{1,3}(?:-[0-9]{1,3}){1,3})"
    r"(?![0-9%.~]|\s?[天个人次年月日页周])",
    _figure,
    (("图3-1", "图三杠一"), ("表2-10", "表二杠十")),
    (DIGITS, "-"),
  ),
  Rule(
    "score",
    r"(?<![0-9A-Za-z.-])([0-9]{1,3})\s?[-–—]\s?([0-9]{1,3})(?![0-9.%]|\s?-)",
    _score,
    (("4-0大胜", "四比零大胜"), ("比分3-2", "比分三比二"), ("比分是102-98", "比分是一百零二比九十八")),
    (DIGITS, "-–—"),
  ),
  Rule(
    "groups with hyphens",
    r"(?<![0-9])\+?[0-9]+(?:-[0-9]+){2,9}(?![0-9=])",
    lambda m: dialled(m.group()),
    (("978-7-111-40701-8", "九七八七幺幺幺四零七零幺八"),),
    (DIGITS, "-"),
  ),
)
