"""Addresses, versions, file names and identifiers in Chinese."""

import re

from cosyjax.text import addresses
from cosyjax.text.rules import DIGITS, Rule
from cosyjax.text.zh_numbers import HAN, dialled, digits

_NAMES = {
  ".": "点", "/": "斜杠", "\\": "反斜杠", "@": "艾特", ":": "冒号", "_": "下划线", "-": "杠", "?": "问号",
  "=": "等于", "&": "和", "#": "井号",
  "%": "百分号", "~": "波浪号", "+": "加",
}  # fmt: skip


def _address(m: re.Match) -> str:
  return addresses.spell(addresses.without_scheme(m.group()), _NAMES, digits, "")


def _mail(m: re.Match) -> str:
  return addresses.spell(m.group(), _NAMES, lambda n: digits(n) if len(n) < 3 else dialled(n).replace("幺", "一"), "")


RULES = (
  Rule(
    "URL",
    addresses.URL,
    _address,
    (("请访问https://www.baidu.com/s?wd=1查看", "请访问www点baidu点com斜杠s问号wd等于一查看"),),
    (":",),
  ),
  Rule("mail", addresses.MAIL, _mail, (("发邮件到test_01@163.com", "发邮件到test下划线零一艾特一六三点com"),), ("@",)),
  Rule("host", addresses.HOST, _address, (("访问www.example.com", "访问www点example点com"),), (".:/",)),
  Rule(
    "file name",
    addresses.FILE,
    _address,
    (("打开main.py", "打开main点py"), ("见docs/guide_v2.pdf", "见docs斜杠guide下划线v二点pdf")),
    (".",),
  ),
  Rule(
    "path",
    addresses.PATH,
    _address,
    (("在/usr/local/bin下", "在斜杠usr斜杠local斜杠bin下"), ("C:\\Users\\me", "C冒号反斜杠Users反斜杠me")),
    ("/\\",),
  ),
  Rule(
    "version",
    r"(?<![0-9.])(?<![A-Za-z]\.)([vV]\.?)?([0-9]{1,9}(?:\.[0-9]{1,9}){2,9})",
    lambda m: (m[1] or "").replace(".", "") + digits(m[2]).replace(".", "点"),
    (("v1.2.3版本", "v一点二点三版本"),),
    (DIGITS, "."),
  ),
  Rule(
    "at a name",
    rf"(?<![A-Za-z0-9])@(?=[{HAN}A-Za-z0-9])|(?<=[A-Za-z0-9])@(?=[A-Za-z0-9])",
    lambda m: "艾特",
    (("请@小明看", "请艾特小明看"),),
    ("@",),
  ),
  Rule(
    "name with a point",
    r"(?<![A-Za-z0-9.])([A-Z][A-Za-z0-9]{1,14})\.(js|io|NET|ts|ai)(?![A-Za-z])",
    lambda m: f"{m[1]}点{m[2]}",
    (("ASP.NET开发", "ASP点NET开发"),),
    (".",),
  ),
  Rule(
    "name after a point",
    r"(?<![A-Za-z0-9.])\.(?=[A-Za-z]{2,12}(?![A-Za-z.]))",
    lambda m: "点",
    ((".NET框架", "点NET框架"), ("修改.gitignore文件", "修改点gitignore文件")),
    (".",),
  ),
  Rule(
    "letter, point, digit",
    r"(?<=[A-Za-z])\.([0-9]{1,9})",
    lambda m: "点" + digits(m[1]),
    (("H.264编码", "H点二六四编码"),),
    (DIGITS, "."),
  ),
  Rule(
    "identifier",
    addresses.IDENTIFIER,
    lambda m: m.group().replace("_", "下划线"),
    (("变量my_var的值", "变量my下划线var的值"),),
    ("_",),
  ),
)
